"""Integer weights by torchao, for export and for training that prepares for it.

Training and export take scheme and layers from here: were they to differ, the network that is shipped would
not be the one that was trained. torchao is optional and only imported where it is used.
"""

import importlib.util
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import PreTrainedModel

from rlhf.errors import ConfigError, ModelError
from rlhf.models.settings_quantization import GROUP_SIZE, QuantizationScheme

if TYPE_CHECKING:
    from torchao.core.config import AOBaseConfig


def require_torchao(key: str) -> None:
    """Find out early whether weights can be quantized.

    Args:
        key: setting or option that asks for it, named in the error.

    Raises:
        ConfigError: torchao is not installed.
    """
    if importlib.util.find_spec("torchao") is None:
        raise ConfigError(f"{key} needs torchao; install the extra 'quantize' or leave it out.")


def torchao_config(scheme: QuantizationScheme) -> "AOBaseConfig":
    """torchao's configuration of a scheme; its integers are symmetric around zero."""
    from torchao.quantization import (
        Int8DynamicActivationIntxWeightConfig,
        Int8WeightOnlyConfig,
        IntxWeightOnlyConfig,
        PerGroup,
    )

    int4, group = torch.int4, PerGroup(GROUP_SIZE)  # type: ignore[attr-defined]
    if scheme == "int8":
        # The inductor's settings are global, and nothing is compiled here.
        return Int8WeightOnlyConfig(set_inductor_config=False)
    if scheme == "int4":
        return IntxWeightOnlyConfig(weight_dtype=int4, granularity=group)
    return Int8DynamicActivationIntxWeightConfig(weight_dtype=int4, weight_granularity=group)


def quantizable_layers(model: PreTrainedModel, scheme: QuantizationScheme) -> frozenset[str]:
    """Names of the linear layers that a scheme quantizes.

    The output projection keeps its precision: rounding it costs most, and it often is the input embedding
    too. In the 4-bit schemes so do layers whose inputs are no multiple of the group.

    Raises:
        ModelError: there is none.
    """
    output = model.get_output_embeddings()
    group = 1 if scheme == "int8" else GROUP_SIZE
    names = frozenset(
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and layer is not output and layer.in_features % group == 0
    )
    if not names:
        raise ModelError(
            f"{type(model).__name__} has no linear layer with a multiple of {group} inputs, which {scheme} "
            "could quantize; leave it out."
        )
    return names


def fake_quantize(model: PreTrainedModel, scheme: QuantizationScheme) -> int:
    """Let the forward pass round as ``scheme`` does, in place; weights stay what they are and are trained on.

    Returns:
        How many layers do.

    Raises:
        ModelError: the scheme quantizes no layer of this model.
    """
    from torchao.quantization import quantize_
    from torchao.quantization.qat import QATConfig

    names = quantizable_layers(model, scheme)
    quantize_(
        model,
        QATConfig(torchao_config(scheme), step="prepare"),
        filter_fn=lambda _, name: name in names,
    )
    return len(names)


def switch_fake_quantization(model: nn.Module, enabled: bool) -> None:
    """Turn the rounding of :func:`fake_quantize` on or off."""
    from torchao.quantization.qat.linear import enable_linear_fake_quant

    for layer in model.modules():
        enable_linear_fake_quant(layer, enabled)


def unwrap_fake_quantized(model: PreTrainedModel) -> None:
    """Put plain linear layers with the trained weights back, in place: what every later stage can load."""
    from torchao.quantization import quantize_
    from torchao.quantization.qat import QATConfig

    quantize_(model, QATConfig(step="convert"))
