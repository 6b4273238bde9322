"""From stage settings to the arguments of TRL's trainers: the one place that knows both vocabularies."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel, Trainer, TrainingArguments

from rlhf.errors import ConfigError
from rlhf.models.causal_attention import attend_short_causal
from rlhf.models.directory import MANIFEST, directory_digest, open_directory
from rlhf.models.log_probs import LINEAR_HEAD_ARCHITECTURES
from rlhf.training.settings import LoRASettings, Precision, TrainerSettings

Arguments = TypeVar("Arguments", bound=TrainingArguments)

_SHORT = 512
_ROBERTA_LIKE = {
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "data2vec-text",
    "xmod",
    "longformer",
}


def use_bf16(precision: Precision) -> bool:
    """Whether to compute in bfloat16.

    Raises:
        ConfigError: bf16 is asked for on a GPU that can only emulate it.
    """
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        if precision == "bf16" and not native:
            raise ConfigError(
                "precision: bf16 is not native to this GPU and would be slower; set it to fp32 or auto."
            )
        return native and precision != "fp32"
    if precision != "auto":
        return precision == "bf16"
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def training_arguments(
    kind: type[Arguments],
    settings: TrainerSettings,
    *,
    work: Path,
    seed: int,
    model: PreTrainedModel,
    **special: Any,
) -> Arguments:
    """Arguments for a trainer that writes no checkpoints, reports to nobody and prints nothing.

    Args:
        kind: ``SFTConfig`` or ``RewardConfig``.
        work: an empty directory for the trainer's own files.
        special: arguments that only this kind has.

    Raises:
        ConfigError: the batch can't be shared out evenly among the processes.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    try:
        micro = settings.rows_per_pass(processes)
    except ValueError as error:
        raise ConfigError(f"{error}; change one of them.") from error
    optimizer = settings.optimizer
    return kind(
        output_dir=str(work),
        seed=seed,
        data_seed=seed,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=settings.batch_size // (micro * processes),
        train_sampling_strategy="group_by_length" if settings.length_grouping else "random",
        length_column_name="length",
        learning_rate=optimizer.learning_rate,
        lr_scheduler_type="constant_with_warmup" if optimizer.schedule == "constant" else optimizer.schedule,
        warmup_steps=optimizer.warmup_fraction,
        weight_decay=optimizer.weight_decay,
        adam_beta1=optimizer.beta1,
        adam_beta2=optimizer.beta2,
        adam_epsilon=optimizer.epsilon,
        max_grad_norm=optimizer.max_gradient_norm,
        optim="adamw_torch_fused",
        bf16=use_bf16(settings.precision),
        use_cpu=not torch.cuda.is_available(),
        activation_checkpointing=settings.gradient_checkpointing,
        # Written to the model's config, and so to the saved policy, though both trainers pass False to the
        # model.
        use_cache=getattr(model.config, "use_cache", True),
        logging_steps=settings.logging_steps,
        # A filtered NaN would look like a loss of zero.
        logging_nan_inf_filter=False,
        eval_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        # Several processes would search the graph for parameters without a gradient.
        ddp_find_unused_parameters=(False if model.config.model_type in LINEAR_HEAD_ARCHITECTURES else None),
        dataloader_num_workers=0,
        dataloader_pin_memory=torch.cuda.is_available(),
        **special,
    )


def choose_attention(
    model: PreTrainedModel, arguments: TrainingArguments, max_length: int, *, masked: bool = True
) -> None:
    """Use the plain attention where the fused one is slow: in bf16 on a CPU, for short sequences.

    There the backward pass of torch's fused kernel takes three times its time in fp32 and five times that of
    plain matrix products (64 sequences of 72 tokens). Which one ran is not stored with the model.

    Args:
        masked: whether the trainer passes attention masks. Without them causal attention is cheaper still,
            and pays for longer sequences (:mod:`rlhf.models.causal_attention`).
    """
    if not (arguments.use_cpu and arguments.bf16):
        return
    if not masked:
        attend_short_causal(model)
    elif max_length <= _SHORT:
        model.set_attn_implementation("eager")


def trained_model(trainer: Trainer) -> PreTrainedModel:
    """The model of a trainer, whose type allows for none."""
    return cast(PreTrainedModel, trainer.model)


def quantization_options(settings: LoRASettings | None) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` that load the base in 4 bits, where settings ask for it.

    Raises:
        ConfigError: there is no CUDA device, or bitsandbytes is not installed.
    """
    if settings is None or not settings.quantize_4bit:
        return {}
    if not torch.cuda.is_available():
        raise ConfigError("lora.quantize_4bit needs a CUDA device and there is none; set it to false.")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError("lora.quantize_4bit needs bitsandbytes; install the extra 'qlora'.")
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
        "device_map": {"": torch.cuda.current_device()},
    }


def refuse_added_tokens(added: int, lora: LoRASettings | None, stage: str) -> None:
    """An adapter can't carry rows of embeddings for new tokens.

    Raises:
        ConfigError: tokens were added and an adapter is to be trained.
    """
    if added and lora is not None:
        raise ConfigError(
            f"{stage}: the template or padding adds {added} tokens, which a LoRA adapter cannot carry; set "
            f"{stage}.template to 'instruction' or 'keep' and {stage}.pad_token to a token of the "
            f"vocabulary, or remove {stage}.lora."
        )


def check_length(max_length: int, config: Any, stage: str) -> None:
    """Refuse sequences longer than the positions of the model.

    Raises:
        ConfigError: ``max_length`` is beyond them.
    """
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions is None:
        return
    if config.model_type in _ROBERTA_LIKE:  # their positions start after the padding id
        positions -= config.pad_token_id + 1
    if max_length > positions:
        raise ConfigError(
            f"{stage}.max_length is {max_length} but the base model has {positions} positions; lower it."
        )


def base_record(base: Path) -> dict[str, str]:
    """How a trained model's settings name its base: by content, never by place."""
    sealed = (base / MANIFEST).is_file()
    return {"digest": open_directory(base).digest if sealed else directory_digest(base)}


@contextmanager
def autocast_like(arguments: TrainingArguments) -> Iterator[None]:
    """The arithmetic of training, for evaluations outside the trainer's loop."""
    with torch.autocast("cpu" if arguments.use_cpu else "cuda", torch.bfloat16, enabled=bool(arguments.bf16)):
        yield
