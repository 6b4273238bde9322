"""Low-rank adapters in PPO: attached in place, switched off for the reference, merged for delivery.

A model keeps its own class (transformers' PEFT integration), so generation and forward passes are the same
with and without adapters. Saving the adapter alone is ``rlhf.models.saving``'s.
"""

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from peft import PeftModel
from peft.tuners.lora import Embedding, Linear, LoraModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from rlhf.errors import ConfigError
from rlhf.training.lora import lora_config
from rlhf.training.settings import LoRASettings


def attach_adapter(
    model: PreTrainedModel, settings: LoRASettings, role: Literal["policy", "critic"], *, seed: int
) -> None:
    """Freeze a model and give it a fresh adapter that changes nothing yet; a critic's score head stays
    trainable.

    Args:
        seed: of the adapter's random half; the global random state is left alone.

    Raises:
        ConfigError: no module of the model has one of the names in ``lora.target_modules``.
    """
    config = lora_config(settings, "policy" if role == "policy" else "reward")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model.add_adapter(config)
        except ValueError as error:  # PEFT's own message lists every module of the model
            raise ConfigError(
                f"ppo.lora.target_modules: no adapter fits the {role}, a {type(model).__name__}; name linear "
                "modules that it has, or 'all-linear'."
            ) from error


def carries_adapter(model: nn.Module) -> bool:
    """Whether an adapter is attached."""
    return any(isinstance(module, BaseTunerLayer) for module in model.modules())


@contextmanager
def adapter_off(model: PreTrainedModel) -> Iterator[None]:
    """The model as it was before its adapter."""
    model.disable_adapters()
    try:
        yield
    finally:
        model.enable_adapters()


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What training changes, by name: everything, or an adapter and a score head."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def require_mergeable(model: nn.Module) -> None:
    """Raise unless :func:`merged_weights` knows what every adapter of the model adds to which weight.

    Raises:
        ConfigError: an adapter is on another kind of module than a linear one or an embedding, on a weight
            that two modules share, or is more than a low-rank product.
    """
    holders = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    for name, layer in model.named_modules():
        if not isinstance(layer, BaseTunerLayer):
            continue
        plain = isinstance(layer, Linear | Embedding) and not (
            layer.lora_variant or any(layer.lora_bias.values())
        )
        if not plain or holders[id(layer.get_base_layer().weight)] > 1:
            raise ConfigError(
                f"ppo.lora.target_modules: the adapter on '{name}' cannot be added to the weights for "
                "another engine; name linear modules that share no weight with others, or set "
                "ppo.rollout_engine to 'own'."
            )


def merged_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """All weights with the adapter added, under the names that they have without one. The model's own stay
    as they are, to the bit: merging in place and undoing it would leave rounding behind.

    Raises:
        ConfigError: see :func:`require_mergeable`.
    """
    require_mergeable(model)
    weights = {
        name.replace(".base_layer.", "."): parameter.detach()
        for name, parameter in model.named_parameters()
        if LoraModel.prefix not in name
    }
    for name, layer in model.named_modules():
        if isinstance(layer, Linear | Embedding):
            for adapter in layer.active_adapters:
                weights[f"{name}.weight"] = (
                    weights[f"{name}.weight"] + layer.get_delta_weight(adapter).detach()
                )
    return weights


def trunk_copy(model: PreTrainedModel, config: object, *, share: bool) -> nn.Module:
    """A copy of a decoder without its output head, which reads ``config`` in place of the model's own.

    Args:
        share: hold the very same parameters instead of copies of them. Only for trunks that stay frozen.
    """
    memo: dict[int, object] = {id(model.config): config}
    if share:
        memo |= {id(p): p for p in model.base_model.parameters()}
    return copy.deepcopy(model.base_model, memo)


def merge_trained_adapter(base: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """Add a saved adapter to the model it was trained on, in place."""
    merged: PreTrainedModel = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    return merged
