"""Callbacks of the supervised trainers: curves and progress to a ``MetricSink``, exact evaluations on the dev
split, and a stop when the loss is no longer a number.

They open and close no tracking runs: several trainers share one run, which belongs to whoever runs the stage.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rlhf.errors import TrainingError
from rlhf.tracking import MetricSink

# What the trainers log besides learning curves.
_NOT_CURVES = {"epoch", "total_flos", "step"}


class SinkCallback(TrainerCallback):
    """Forwards a trainer's logs as ``prefix`` + name, and its progress.

    Args:
        prefix: such as ``sft/``; slashes and all.
        renamed: gives a log's figures the names that they go by here, and drops what is not wanted.
        steps_per_update: optimizer steps of one unit of the curves' axis and of the progress.

    Raises:
        TrainingError: while training, when the loss or the gradient norm is not finite.
    """

    def __init__(
        self,
        sink: MetricSink,
        prefix: str,
        *,
        renamed: Callable[[Mapping[str, float]], dict[str, float]] = dict,
        steps_per_update: int = 1,
    ) -> None:
        self._sink = sink
        self._prefix = prefix
        self._renamed = renamed
        self._steps = steps_per_update
        self.latest: dict[str, float] = {}
        """The newest of each figure, without prefix."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or not state.is_world_process_zero:
            return
        figures = {
            name: float(value)
            for name, value in logs.items()
            if isinstance(value, int | float) and name not in _NOT_CURVES and not name.startswith("train_")
        }
        for name in ("loss", "grad_norm"):
            if name in figures and not math.isfinite(figures[name]):
                raise TrainingError(
                    f"{self._prefix}{name} is {figures[name]} at step {state.global_step}; lower "
                    "optimizer.learning_rate, lengthen the warmup, or set precision: fp32."
                )
        figures = self._renamed(figures)
        self.latest |= figures
        if figures:
            update = state.global_step // self._steps
            self._sink.log_metrics({self._prefix + k: v for k, v in figures.items()}, update)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero and state.global_step % self._steps == 0:
            shown = ("reward", "kl") if "reward" in self.latest else ("loss",)
            note = ", ".join(f"{name} {self.latest[name]:.3f}" for name in shown if name in self.latest)
            self._sink.progress(state.global_step // self._steps, state.max_steps // self._steps, note)


class DevEvaluation(TrainerCallback):
    """Evaluates evenly over training, the last time after the last step; ``latest`` holds the newest figures.

    The trainers' own evaluation averages over batches; ``evaluate`` counts every token or pair once.
    """

    def __init__(
        self,
        evaluate: Callable[[PreTrainedModel], dict[str, float]],
        *,
        times: int,
        sink: MetricSink,
        prefix: str,
    ) -> None:
        self._evaluate = evaluate
        self._times = times
        self._sink = sink
        self._prefix = prefix
        self.latest: dict[str, float] = {}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step not in evaluation_steps(state.max_steps, self._times):
            return
        model = kwargs["model"]
        was_training = model.training
        model.eval()
        self.latest = self._evaluate(model)
        model.train(was_training)
        if state.is_world_process_zero:
            self._sink.log_metrics({self._prefix + k: v for k, v in self.latest.items()}, state.global_step)


def evaluation_steps(total: int, times: int) -> frozenset[int]:
    """The steps, out of ``total``, after which to evaluate; the last one is among them."""
    return frozenset(math.ceil(total * i / times) for i in range(1, times + 1))
