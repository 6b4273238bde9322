"""Settings of integer weights: the schemes of an export, and of training that prepares for them."""

from typing import Final, Literal

from pydantic import Field

from rlhf.settings import Settings

QuantizationScheme = Literal["int8", "int4", "int8_dynamic_int4"]
"""``int8``: weights in 8 bits, a scale for each output. ``int4``: weights in 4 bits, a scale for each 32
inputs. ``int8_dynamic_int4``: the same weights, and activations in 8 bits, a range for each token."""

GROUP_SIZE: Final = 32
"""Neighbouring inputs of a layer that share a scale in the 4-bit schemes."""


class QuantizationAwareSettings(Settings):
    """Quantization-aware training: the forward pass rounds weights (and activations) as the export will, the
    gradient passes straight through (Jacob et al. 2018, arXiv:1712.05877)."""

    scheme: Literal["int4", "int8_dynamic_int4"] = "int8_dynamic_int4"
    """What to prepare for; export with the same word: ``rlhf export ... --quantize int8_dynamic_int4``."""
    delay_steps: int = Field(default=0, ge=0)
    """Optimizer steps in full precision before the rounding begins; some hundreds steady long trainings."""
