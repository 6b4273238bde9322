"""Activation checkpointing (Chen et al. 2016, arXiv:1604.06174): layers recomputed in the backward pass.

transformers recomputes in training mode only, which would turn dropout on, and drops the key-value cache that
rollouts need. So the layers that it marks as recomputable are wrapped here, in evaluation mode, for the
forward passes of learning alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from rlhf.errors import ConfigError


def require_recomputable(model: PreTrainedModel) -> None:
    """Refuse a model whose layers cannot be recomputed.

    Raises:
        ConfigError: transformers marks none of its layers.
    """
    if not recomputable_layers(model):
        raise ConfigError(
            "ppo.gradient_checkpointing: transformers has no recomputable layers for "
            f"{type(model).__name__}; set it to false."
        )


@contextmanager
def activation_checkpointing(*models: nn.Module) -> Iterator[None]:
    """Keep only the layers' inputs of forward passes inside; their backward pass may come later.

    Without gradients it does nothing.
    """
    layers = [layer for model in models for layer in recomputable_layers(model)]
    for layer in layers:
        # no layer draws random numbers: dropout is off
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own is back


def recomputable_layers(model: nn.Module) -> list[GradientCheckpointingLayer]:
    """The layers that transformers marks as recomputable: a decoder's blocks."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
