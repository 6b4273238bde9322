"""Writing a policy with integer weights, in layouts of safetensors that transformers reads back.

torchao's own layout keeps every integer in a byte, so ``int4`` is written in that of compressed-tensors,
which packs eight of them into four bytes; vLLM serves it too. Integers and scales are torchao's in both.
"""

import importlib.util
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedModel, TorchAoConfig

from rlhf.errors import ConfigError
from rlhf.models.loading import load_policy
from rlhf.models.quantization import quantizable_layers, require_torchao, torchao_config
from rlhf.models.saving import quiet_transformers
from rlhf.models.settings_quantization import GROUP_SIZE, QuantizationScheme

_BITS = 4


def require_quantizer(scheme: QuantizationScheme, key: str) -> None:
    """Find out early whether a scheme can be written.

    Raises:
        ConfigError: a package that it takes is not installed; ``key`` asked for it.
    """
    require_torchao(key)
    if scheme == "int4" and importlib.util.find_spec("compressed_tensors") is None:
        raise ConfigError(f"{key} int4 needs compressed-tensors; install the extra 'quantize'.")


def save_quantized(model: Path, out: Path, scheme: QuantizationScheme) -> int:
    """Write the weights and the configuration of a full model, quantized; the tokenizer is not.

    Returns:
        How many layers have integer weights.

    Raises:
        ModelError: the scheme quantizes no layer of this model.
    """
    dtype = AutoConfig.from_pretrained(model).dtype or torch.float32
    plain = load_policy(model, dtype=dtype, key="export")
    layers = quantizable_layers(plain, scheme)
    kept = sorted(
        name
        for name, layer in plain.named_modules()
        if isinstance(layer, torch.nn.Linear) and name not in layers
    )
    if scheme == "int4":
        _save_packed(plain, out, layers, kept)
        return len(layers)
    del plain  # transformers quantizes while it reads: one copy in memory
    quantization = TorchAoConfig(torchao_config(scheme), modules_to_not_convert=kept)
    quantized = load_policy(model, dtype=dtype, key="export", quantization_config=quantization)
    with quiet_transformers():
        quantized.save_pretrained(out)
    return len(layers)


def _save_packed(model: PreTrainedModel, out: Path, layers: frozenset[str], kept: list[str]) -> None:
    """Compressed-tensors' ``pack-quantized`` layout: eight integers to an int32, a scale for each group."""
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
    from torchao.quantization import quantize_

    quantize_(model, torchao_config("int4"), filter_fn=lambda _, name: name in layers)
    state: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        layer = name.removesuffix(".weight")
        if layer not in layers:
            state[name] = tensor
            continue
        state[f"{layer}.weight_packed"] = pack_to_int32(tensor.qdata, _BITS).contiguous()
        state[f"{layer}.weight_scale"] = tensor.scale.reshape(tensor.shape[0], -1).contiguous()
        state[f"{layer}.weight_shape"] = torch.tensor(tensor.shape)
    model.config.quantization_config = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {
                    "num_bits": _BITS,
                    "type": "int",
                    "symmetric": True,
                    "strategy": "group",
                    "group_size": GROUP_SIZE,
                    "dynamic": False,
                },
            }
        },
        "ignore": kept,
    }
    with quiet_transformers():
        model.save_pretrained(out, state_dict=state)
