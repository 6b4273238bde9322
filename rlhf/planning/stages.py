"""Memory of each stage of the pipeline from its settings, and which settings would make a stage fit."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rlhf.planning.memory import Memory, inference_memory, training_memory
from rlhf.planning.shapes import ModelShape, shape_of_architecture, shape_of_base
from rlhf.training.settings import BaseModelSettings, LoRASettings, PretrainSettings, TrainerSettings
from rlhf.training.settings_policy import Algorithm

Device = Literal["cpu", "cuda"]
_ADAM_8BIT = 2.1  # two moments of a byte, and the scales of their blocks


@dataclass(frozen=True)
class Parts:
    """The settings that memory hangs on: the pipeline's parameters."""

    pretrain: PretrainSettings | None
    base_model: BaseModelSettings | None
    reward_base: BaseModelSettings | None
    sft: Any
    reward_model: Any
    algorithm: Algorithm
    policy: Any
    evaluation: Any


def stage_memory(parts: Parts, device: Device) -> dict[str, Memory]:
    """Estimated memory of each step that holds a model.

    Raises:
        ModelError: a model's configuration cannot be read.
    """
    shape = base_shape(parts)
    judge = shape if parts.reward_base is None else shape_of_base(parts.reward_base)
    found = {}
    if parts.base_model is None:
        found["pretrain"] = supervised(shape, parts.pretrain or PretrainSettings(), device)
    found["train_sft"] = supervised(shape, parts.sft, device)
    rm = supervised(judge, parts.reward_model, device, sequences_per_row=2, logits=False)
    found |= dict.fromkeys(("train_proxy_reward_model", "train_selection_reward_model"), rm)
    found["train_policy"] = policy(shape, judge, parts.algorithm, parts.policy, parts.sft.max_length, device)
    new_tokens = parts.evaluation.generation.max_new_tokens
    tokens = 128 * (parts.sft.max_length + new_tokens)
    found["evaluate_policy"] = inference_memory(
        shape, tokens=tokens, bytes_per_value=4, generates=True
    ) + Memory(weights=(2 * shape.parameters + 2 * judge.parameters) * 4.0)
    return found


def base_shape(parts: Parts) -> ModelShape:
    """The model that supervised fine-tuning starts from."""
    if parts.base_model is not None:
        return shape_of_base(parts.base_model)
    made = parts.pretrain or PretrainSettings()
    return shape_of_architecture(made.architecture, made.vocabulary_size)


def supervised(
    shape: ModelShape,
    settings: TrainerSettings,
    device: Device,
    *,
    sequences_per_row: int = 1,
    logits: bool = True,
) -> Memory:
    """One process of pre-training, supervised fine-tuning, or a reward model, of whose pairs both sides are
    one batch."""
    rows = settings.rows_per_pass(settings.processes)
    length = min(settings.max_length, shape.positions)
    return training_memory(
        shape,
        tokens=rows * sequences_per_row * length,
        bytes_per_value=_width(settings.precision, device),
        lora=getattr(settings, "lora", None),
        checkpointing=settings.gradient_checkpointing,
        logits=logits,
        shards=settings.processes if settings.sharding == "fsdp" else 1,
    )


def policy(
    shape: ModelShape,
    judge: ModelShape,
    algorithm: Algorithm,
    settings: Any,
    prompt_length: int,
    device: Device,
) -> Memory:
    """Policy training: what learns, what it is compared with, what scores, and the decoding cache."""
    width = _width(settings.precision, device)
    length = min(prompt_length + settings.generation.max_new_tokens, shape.positions)
    learning = {
        "bytes_per_value": width,
        "lora": settings.lora,
        "checkpointing": settings.gradient_checkpointing,
    }
    # The adapter's base is the reference, otherwise a model of its own; proxy and selection model score.
    frozen = Memory(weights=4.0 * (2 * judge.parameters + (shape.parameters if settings.lora is None else 0)))
    decoded = settings.generation_batch_size * length
    cache = Memory(kv_cache=2.0 * shape.layers * shape.key_value_size * width * decoded)
    if algorithm == "ppo":
        learning |= {"tokens": settings.micro_batch_tokens}
        learning["shards"] = settings.processes if settings.sharding == "fsdp" else 1
        if settings.optimizer == "adamw_8bit":
            learning["adam_bytes"] = _ADAM_8BIT
        total = training_memory(shape, **learning) + frozen + cache
        if settings.critic == "separate":
            # trained in turn with the actor: its activations are not there at the same time
            critic = training_memory(judge, **{**learning, "tokens": 0})
            total += critic
        return total
    if algorithm in ("rloo", "grpo"):
        rows = settings.micro_batch_size or settings.rollout_batch_size // settings.mini_batches
    else:
        rows = (settings.micro_batch_size or settings.batch_size) * (2 if algorithm == "dpo" else 1)
    return training_memory(shape, tokens=rows * length, **learning) + frozen + cache


def remedies(
    section: str, settings: Any, memory: Callable[[Any], Memory], available: float
) -> Mapping[str, Any] | None:
    """The first change of a section, from the gentlest on, that makes a stage fit; None where none does.

    Args:
        memory: the stage's memory under changed settings.
        available: bytes.
    """
    for change in _changes(settings):
        if memory(settings.model_copy(update=change)).total <= available:
            shown = {k: {"rank": v.rank} if isinstance(v, LoRASettings) else v for k, v in change.items()}
            return {f"{section}.{key}": value for key, value in shown.items()}
    return None


def _changes(settings: Any) -> Iterator[dict[str, Any]]:
    fields = type(settings).model_fields
    lighter: list[dict[str, Any]] = [{}]
    if "gradient_checkpointing" in fields and not settings.gradient_checkpointing:
        lighter.append({"gradient_checkpointing": True})
    adapters: list[dict[str, Any]] = [{}]
    if "lora" in fields and settings.lora is None:
        adapters.append({"lora": LoRASettings()})
    for adapter in adapters:
        for light in lighter:
            for smaller in _smaller(settings):
                if change := {**adapter, **light, **smaller}:
                    yield change


def _smaller(settings: Any) -> Iterator[dict[str, Any]]:
    yield {}
    if "micro_batch_tokens" in type(settings).model_fields and not hasattr(settings, "micro_batch_size"):
        tokens = settings.micro_batch_tokens
        while tokens > 512:
            tokens //= 2
            yield {"micro_batch_tokens": tokens}
        return
    whole = getattr(settings, "batch_size", None) or settings.rollout_batch_size // settings.mini_batches
    rows = settings.micro_batch_size or whole
    for divisor in range(2, rows + 1):
        if rows % divisor == 0:
            yield {"micro_batch_size": rows // divisor}


def _width(precision: str, device: Device) -> int:
    return 2 if precision == "bf16" or (precision == "auto" and device == "cuda") else 4
