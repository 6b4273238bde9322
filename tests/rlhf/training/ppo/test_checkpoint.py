"""Checkpoints: complete or absent, of this run or refused."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from rlhf.errors import TrainingError
from rlhf.training.ppo import checkpoint as module
from rlhf.training.ppo.checkpoint import (
    Checkpoint,
    has_checkpoint,
    load_newest,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)

IDENTITY = {"ppo.learning_rate": 1e-6, "policy": "abc"}


def _checkpoint(update: int) -> Checkpoint:
    return Checkpoint(
        update, {"policy": {"w": torch.full((2,), float(update))}}, {"kl_coefficient": 0.1 * update}
    )


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, _checkpoint(3), IDENTITY, keep=1)
    found = load_newest(tmp_path, IDENTITY)
    assert found is not None
    assert found.update == 3
    assert found.state == {"kl_coefficient": 0.1 * 3}
    assert torch.equal(found.tensors["policy"]["w"], torch.full((2,), 3.0))


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for update in range(1, 6):
        save_checkpoint(tmp_path, _checkpoint(update), IDENTITY, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["update-00000004", "update-00000005"]


@pytest.mark.parametrize("broken", ["save_file", "canonical_json", "_replace_directory"])
def test_an_interrupted_write_leaves_the_checkpoint_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    save_checkpoint(tmp_path, _checkpoint(1), IDENTITY, keep=1)

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, broken, killed)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, _checkpoint(2), IDENTITY, keep=1)
    found = load_newest(tmp_path, IDENTITY)
    assert found is not None
    assert found.update == 1
    save_checkpoint(tmp_path, _checkpoint(2), IDENTITY, keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["update-00000002"]


def test_a_checkpoint_of_other_settings_is_refused_and_the_difference_named(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, _checkpoint(1), IDENTITY, keep=1)
    with pytest.raises(TrainingError, match=r"other policy, ppo\.learning_rate"):
        load_newest(tmp_path, {"ppo.learning_rate": 2e-6, "policy": "abd"})


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, _checkpoint(1), IDENTITY, keep=1)
    (path / "state.json").write_text(json.dumps({"kl_coefficient": 5}))
    with pytest.raises(TrainingError, match=r"damaged \(state\.json\)"):
        load_newest(tmp_path, IDENTITY)


def test_a_directory_without_a_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "update-00000007").mkdir()
    assert not has_checkpoint(tmp_path)
    assert load_newest(tmp_path, IDENTITY) is None


def test_nothing_in_a_checkpoint_is_pickled(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, _checkpoint(1), IDENTITY, keep=1)
    assert {f.suffix for f in path.iterdir()} == {".safetensors", ".json"}


def test_a_restored_optimizer_takes_the_same_next_step() -> None:
    def step(model: nn.Linear, optimizer: torch.optim.AdamW) -> None:
        model(torch.tensor([[1.0, -2.0]])).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    def build() -> tuple[nn.Linear, torch.optim.AdamW]:
        torch.manual_seed(0)
        model = nn.Linear(2, 2)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)

    straight, optimizer = build()
    step(straight, optimizer)
    resumed, other = build()
    resumed.load_state_dict(straight.state_dict())
    saved = optimizer_tensors(optimizer, dict(straight.named_parameters()))
    restore_optimizer(other, dict(resumed.named_parameters()), {k: v.clone() for k, v in saved.items()})
    step(straight, optimizer)
    step(resumed, other)
    assert torch.equal(straight.weight, resumed.weight)
