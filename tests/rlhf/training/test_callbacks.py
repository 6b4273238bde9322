"""What trainers tell a sink, and when they stop."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainerControl, TrainerState, TrainingArguments

from rlhf.errors import TrainingError
from rlhf.tracking import RecordingSink
from rlhf.training.callbacks import DevEvaluation, SinkCallback, evaluation_steps


@pytest.fixture
def arguments(tmp_path_factory: pytest.TempPathFactory) -> TrainingArguments:
    return TrainingArguments(str(tmp_path_factory.mktemp("work")), use_cpu=True, report_to=[])


def test_logs_arrive_under_the_prefix_and_without_bookkeeping(arguments: TrainingArguments) -> None:
    sink = RecordingSink()
    logs = {"loss": 2.0, "grad_norm": 1.0, "epoch": 0.5, "train_runtime": 3.0, "note": "text"}
    SinkCallback(sink, "reward/proxy/").on_log(arguments, TrainerState(global_step=7), TrainerControl(), logs)
    assert sink.curves == {"reward/proxy/loss": [(7, 2.0)], "reward/proxy/grad_norm": [(7, 1.0)]}


@pytest.mark.parametrize("figure", ["loss", "grad_norm"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_training_stops_when_a_figure_is_not_finite(
    arguments: TrainingArguments, figure: str, value: float
) -> None:
    callback = SinkCallback(RecordingSink(), "sft/")
    with pytest.raises(TrainingError, match=rf"sft/{figure} is {value} at step 9; lower optimizer"):
        callback.on_log(arguments, TrainerState(global_step=9), TrainerControl(), {figure: value})


def test_progress_reaches_the_total(arguments: TrainingArguments) -> None:
    seen: list[tuple[int, int]] = []

    class Sink(RecordingSink):
        def progress(self, done: int, total: int, note: str = "") -> None:
            seen.append((done, total))

    callback = SinkCallback(Sink(), "sft/")
    for step in (1, 2):
        callback.on_step_end(arguments, TrainerState(global_step=step, max_steps=2), TrainerControl())
    assert seen == [(1, 2), (2, 2)]


@given(total=st.integers(1, 1000), times=st.integers(1, 50))
def test_evaluations_are_spread_over_training_and_the_last_is_at_its_end(total: int, times: int) -> None:
    steps = evaluation_steps(total, times)
    assert max(steps) == total
    assert min(steps) >= 1
    assert len(steps) == min(total, times)


def test_a_model_is_evaluated_without_dropout_and_trains_on(arguments: TrainingArguments) -> None:
    model = torch.nn.Dropout()
    modes: list[bool] = []

    def evaluate(current: torch.nn.Module) -> dict[str, float]:
        modes.append(current.training)
        return {"eval/loss": 1.0}

    sink = RecordingSink()
    callback = DevEvaluation(evaluate, times=1, sink=sink, prefix="sft/")  # type: ignore[arg-type]
    for step in (1, 2):
        state = TrainerState(global_step=step, max_steps=2)
        callback.on_step_end(arguments, state, TrainerControl(), model=model)
    assert modes == [False]
    assert model.training
    assert sink.curves == {"sft/eval/loss": [(2, 1.0)]}
