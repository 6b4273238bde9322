"""The optimizers of PPO by name, with what each needs of the machine."""

import importlib.util
from collections.abc import Iterable
from typing import Any

import torch

from rlhf.errors import ConfigError
from rlhf.training.ppo.settings import PPOSettings


def require_optimizer(settings: PPOSettings) -> None:
    """Refuse an optimizer that cannot run here, before anything is loaded.

    Raises:
        ConfigError: 8-bit moments without a CUDA device or without bitsandbytes.
    """
    if settings.optimizer != "adamw_8bit":
        return
    if not torch.cuda.is_available():
        raise ConfigError("ppo.optimizer: adamw_8bit needs a CUDA device and there is none; set it to adamw.")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError("ppo.optimizer: adamw_8bit needs bitsandbytes; install the extra 'qlora'.")


def build_optimizer(groups: Iterable[dict[str, Any]], settings: PPOSettings) -> torch.optim.Optimizer:
    """AdamW over parameter groups that bring their learning rates.

    Small tensors (below 4096 elements) keep 32-bit moments in either case.
    """
    shared: dict[str, Any] = {
        "betas": settings.adam_betas,
        "eps": settings.adam_epsilon,
        "weight_decay": settings.weight_decay,
    }
    if settings.optimizer == "adamw_8bit":
        import bitsandbytes  # the extra 'qlora'; see require_optimizer

        return bitsandbytes.optim.AdamW8bit(groups, **shared)
    return torch.optim.AdamW(groups, **shared, fused=True)
