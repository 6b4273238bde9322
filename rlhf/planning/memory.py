"""Memory of a training step from a model's shape: weights, gradients, optimizer, activations, KV cache.

An estimate: allocators round up and kernels need workspace, which ``SLACK`` stands for. What an earlier run
or a calibration measured is better and is preferred to it.
"""

from dataclasses import dataclass, replace

from rlhf.planning.shapes import ModelShape
from rlhf.training.settings import LoRASettings

SLACK = 1.1
_FP32 = 4
_NF4 = 0.55  # 4 bits and the scales of its blocks (Dettmers et al. 2023, arXiv:2305.14314)
_ADAM = 8  # two moments in fp32
_LOGIT_COPIES = 3  # the logits, their softmax, and the gradient


@dataclass(frozen=True)
class Memory:
    """Bytes by what they are for."""

    weights: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    activations: float = 0.0
    kv_cache: float = 0.0

    @property
    def total(self) -> float:
        """All of it, with the slack for what is not counted."""
        return SLACK * sum(vars(self).values())

    def __add__(self, other: "Memory") -> "Memory":
        return Memory(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


def training_memory(
    shape: ModelShape,
    *,
    tokens: int,
    bytes_per_value: int,
    lora: LoRASettings | None = None,
    checkpointing: bool = False,
    logits: bool = True,
    adam_bytes: float = _ADAM,
    shards: int = 1,
) -> Memory:
    """A model in training.

    Args:
        tokens: padded tokens in one forward and backward pass.
        bytes_per_value: of an activation: 2 in bf16, 4 in fp32. Weights are fp32 in any case.
        logits: whether the output is a distribution over the vocabulary rather than a score.
        shards: processes that share weights, gradients and optimizer.
    """
    trained = shape.parameters if lora is None else lora.rank * shape.linear_sides
    base = _NF4 if lora is not None and lora.quantize_4bit else _FP32
    weights = shape.parameters * base + (0 if lora is None else trained * _FP32)
    return Memory(
        weights=weights / shards,
        gradients=trained * _FP32 / shards,
        optimizer=trained * adam_bytes / shards,
        activations=_activations(shape, tokens, bytes_per_value, checkpointing)
        + (tokens * shape.vocabulary * _FP32 * _LOGIT_COPIES if logits else 0),
    )


def inference_memory(
    shape: ModelShape, *, tokens: int, bytes_per_value: int, generates: bool = False
) -> Memory:
    """A model that scores, or that generates with a cache of keys and values.

    Args:
        tokens: padded tokens in one pass; with ``generates``, of all sequences at their end.
    """
    cache = 2 * shape.layers * shape.key_value_size * bytes_per_value * tokens if generates else 0
    one_layer = replace(shape, layers=1)
    return Memory(
        weights=shape.parameters * _FP32,
        activations=0 if generates else _activations(one_layer, tokens, bytes_per_value, False),
        kv_cache=cache,
    )


def _activations(shape: ModelShape, tokens: int, bytes_per_value: int, checkpointing: bool) -> float:
    """What the backward pass reads again: in each block the inputs of norms, projections and residuals
    (10 times the width), keys and values twice, and four times the gated feed-forward layer. After
    Korthikanti et al. 2022, arXiv:2205.05198, section 4, without the attention matrix, which the fused
    kernels do not keep."""
    block = 10 * shape.hidden_size + 4 * shape.key_value_size + 4 * shape.ffn_size
    kept = shape.layers * shape.hidden_size + block if checkpointing else shape.layers * block
    return float(tokens) * kept * bytes_per_value
