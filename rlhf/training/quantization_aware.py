"""When the rounding of quantization-aware training sets in: at once, or after steps in full precision."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rlhf.errors import ConfigError
from rlhf.models.quantization import switch_fake_quantization


class FakeQuantizationCallback(TrainerCallback):
    """Switches a model's fake quantization on after ``delay_steps`` optimizer steps.

    Raises:
        ConfigError: when training begins, if it would end before that.
    """

    def __init__(self, delay_steps: int) -> None:
        self._delay = delay_steps

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._delay >= state.max_steps:
            raise ConfigError(
                f"sft.quantization_aware.delay_steps is {self._delay}, but training ends after "
                f"{state.max_steps} steps; lower it."
            )
        # a resumed training may begin beyond the delay
        switch_fake_quantization(kwargs["model"], state.global_step >= self._delay)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == self._delay:
            switch_fake_quantization(kwargs["model"], True)
