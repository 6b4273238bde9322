"""Optimizers by name: what each needs is asked for before anything is loaded."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from rlhf.errors import ConfigError
from rlhf.training.ppo.actor_critic import load_networks
from rlhf.training.ppo.checkpoint import optimizer_tensors, restore_optimizer
from rlhf.training.ppo.optimizers import build_optimizer
from rlhf.training.ppo.settings import PPOSettings

Settings = Callable[..., PPOSettings]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_8_bit_moments_without_a_gpu_are_refused_before_a_model_is_looked_for(
    make_settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"ppo\.optimizer: adamw_8bit needs a CUDA device"):
        load_networks(tmp_path / "nothing-here", None, make_settings(optimizer="adamw_8bit"))


def test_8_bit_moments_without_bitsandbytes_name_the_extra_to_install(
    make_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="install the extra 'qlora'"):
        load_networks(tmp_path / "nothing-here", None, make_settings(optimizer="adamw_8bit"))


def test_the_settings_reach_the_optimizer(make_settings: Settings) -> None:
    settings = make_settings(adam_betas=(0.8, 0.9), adam_epsilon=1e-6, weight_decay=0.1)
    groups = [{"params": list(nn.Linear(2, 2).parameters()), "lr": 0.5}]
    optimizer = build_optimizer(groups, settings)
    assert isinstance(optimizer, torch.optim.AdamW)
    found = optimizer.param_groups[0]
    assert (found["lr"], found["betas"], found["eps"], found["weight_decay"]) == (0.5, (0.8, 0.9), 1e-6, 0.1)


def test_restored_8_bit_moments_take_the_same_next_step(make_settings: Settings) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra 'qlora' is not installed")
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def build() -> tuple[nn.Linear, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Linear(128, 64, device=device)  # the weight is large enough for 8 bits, the bias is not
        groups = [{"params": list(model.parameters()), "lr": 0.1}]
        return model, build_optimizer(groups, make_settings(optimizer="adamw_8bit"))

    def step(model: nn.Linear, optimizer: torch.optim.Optimizer) -> None:
        model(torch.linspace(-1, 1, 128, device=device)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    straight, optimizer = build()
    step(straight, optimizer)
    resumed, other = build()
    resumed.load_state_dict(straight.state_dict())
    saved = optimizer_tensors(optimizer, dict(straight.named_parameters()))
    assert saved["weight|state1"].dtype == torch.uint8
    assert saved["bias|state1"].dtype == torch.float32
    restore_optimizer(other, dict(resumed.named_parameters()), {k: v.clone() for k, v in saved.items()})
    step(straight, optimizer)
    step(resumed, other)
    assert torch.equal(straight.weight, resumed.weight)
    assert torch.equal(straight.bias, resumed.bias)
