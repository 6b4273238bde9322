"""Activation checkpointing: the same gradients, really recomputed, and without dropout."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_layers import GradientCheckpointingLayer

from rlhf.errors import ConfigError
from rlhf.models.log_probs import collate
from rlhf.training.ppo.activation_checkpointing import activation_checkpointing, require_recomputable
from rlhf.training.ppo.actor_critic import ActorCritic, load_networks
from rlhf.training.ppo.settings import PPOSettings

PAIRS = [([3, 4, 5], [6, 7, 2]), ([8], [9, 10, 11, 12, 2]), ([3, 9], [2])]
Settings = Callable[..., PPOSettings]


def _gradients(models: ActorCritic, *, freeze_trunk: bool = False) -> dict[str, Tensor]:
    found = models.predict(collate(PAIRS, models.device), actor=not freeze_trunk, freeze_trunk=freeze_trunk)
    assert found.values is not None
    loss = (found.values - 1.0).square().sum()
    (loss if found.log_probs is None else loss + found.log_probs.sum()).backward()
    return {
        f"{owner}.{name}": p.grad.clone()
        for owner, model in (("policy", models.policy), ("critic", models.critic), ("head", models.head))
        for name, p in ([] if model is None else model.named_parameters())
        if p.grad is not None
    }


def _counted_passes(model: PreTrainedModel) -> Counter[str]:
    """Counts the forward passes of each layer's attention: a recomputed layer runs it twice."""
    passes: Counter[str] = Counter()
    for name, module in model.named_modules():
        if isinstance(module, GradientCheckpointingLayer):
            inner = next(iter(module.children()))
            inner.register_forward_hook(lambda *_, name=name: passes.update([name]))
    return passes


@pytest.mark.parametrize("lora", [None, {"rank": 2}], ids=["full", "lora"])
@pytest.mark.parametrize("critic", ["separate", "shared"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_gradients_are_those_of_kept_activations_and_every_layer_is_recomputed(
    policy_path: Path, make_settings: Settings, critic: str, lora: dict[str, int] | None, precision: str
) -> None:
    options = {"critic": critic, "lora": lora, "precision": precision}
    plain, _ = load_networks(policy_path, None, make_settings(**options))
    frugal, _ = load_networks(policy_path, None, make_settings(**options, gradient_checkpointing=True))
    once, twice = _counted_passes(plain.policy), _counted_passes(frugal.policy)
    expected, found = _gradients(plain), _gradients(frugal)
    assert set(once.values()) == {1}
    assert set(twice.values()) == {2}
    assert len(twice) == plain.policy.config.num_hidden_layers
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-7)


def test_nothing_is_recomputed_without_a_gradient(policy_path: Path, make_settings: Settings) -> None:
    models, _ = load_networks(policy_path, None, make_settings(critic="shared", gradient_checkpointing=True))
    passes = _counted_passes(models.policy)
    with torch.inference_mode():
        models.predict(collate(PAIRS, models.device))
    _gradients(models, freeze_trunk=True)
    assert set(passes.values()) == {2}  # one pass each


def test_dropout_stays_off_and_the_layers_are_their_own_afterwards(
    make_tokenizer: Callable[..., PreTrainedTokenizerFast], make_settings: Settings, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=16, n_embd=16, n_layer=2, n_head=2, n_positions=32, resid_pdrop=0.5, attn_pdrop=0.5
    )
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    models, _ = load_networks(tmp_path, None, make_settings(critic="shared", gradient_checkpointing=True))
    one = _gradients(models)
    for parameter in [*models.policy.parameters(), *models.head.parameters()]:
        parameter.grad = None
    other = _gradients(models)
    assert all(torch.equal(gradient, other[name]) for name, gradient in one.items())
    assert not models.policy.training
    assert all("forward" not in vars(module) for module in models.policy.modules())


def test_a_model_without_recomputable_layers_is_refused(policy_path: Path, make_settings: Settings) -> None:
    models, _ = load_networks(policy_path, None, make_settings())
    models.policy.model.layers = nn.ModuleList()
    with pytest.raises(ConfigError, match=r"ppo\.gradient_checkpointing"):
        require_recomputable(models.policy)


def test_an_error_in_the_pass_gives_the_layers_their_own_forward_back(
    policy_path: Path, make_settings: Settings
) -> None:
    models, _ = load_networks(policy_path, None, make_settings())
    with pytest.raises(KeyboardInterrupt), activation_checkpointing(models.policy):
        raise KeyboardInterrupt
    assert all("forward" not in vars(module) for module in models.policy.modules())
