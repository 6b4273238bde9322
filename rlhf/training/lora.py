"""From LoRA settings to PEFT's configuration: the one place, for every stage that trains adapters."""

from typing import Literal

from peft import LoraConfig, TaskType

from rlhf.training.settings import LoRASettings


def lora_config(settings: LoRASettings, task: Literal["policy", "reward"]) -> LoraConfig:
    """PEFT's configuration; a reward model's fresh score head is trained in full beside the adapter."""
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM if task == "policy" else TaskType.SEQ_CLS,
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules
        if isinstance(settings.target_modules, str)
        else list(settings.target_modules),
        modules_to_save=["score"] if task == "reward" else None,
    )
