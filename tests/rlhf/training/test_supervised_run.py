"""Interrupted supervised training: whatever the moment, it ends with the weights of an undisturbed run."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from datasets import DatasetDict

from rlhf.errors import InterruptedRunError
from rlhf.models.directory import ModelDirectory
from rlhf.tracking import RecordingSink
from rlhf.training.interruption import request_stop, withdraw_stop_request
from rlhf.training.pretrain import pretrain
from rlhf.training.reward_model import train_reward_model
from rlhf.training.settings import (
    LoRASettings,
    OptimizerSettings,
    PretrainSettings,
    RewardModelSettings,
    SFTSettings,
)
from rlhf.training.sft import train_sft
from tests.rlhf.training.conftest import SHAPE

# two epochs of eight steps; logs, evaluations and checkpoints at different steps
COMMON = {
    "epochs": 2,
    "batch_size": 8,
    "micro_batch_size": 4,
    "max_length": 64,
    "logging_steps": 3,
    "evaluations": 3,
    "checkpoint_every": 5,
    "precision": "fp32",
    "optimizer": OptimizerSettings(learning_rate=1e-2),
}
DROPOUT = LoRASettings(rank=2, alpha=4, dropout=0.3)

Train = Callable[[Path, Path | None, RecordingSink], ModelDirectory]


class StoppingSink(RecordingSink):
    """Asks for a stop as soon as a step is reached."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self._step = step

    def progress(self, done: int, total: int, note: str = "") -> None:
        if done == self._step:
            request_stop()


class KillingSink(RecordingSink):
    """Ends training at a step without a chance to write anything."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self._step = step

    def progress(self, done: int, total: int, note: str = "") -> None:
        if done == self._step:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def _no_stop_request() -> Iterator[None]:
    yield
    withdraw_stop_request()


@pytest.fixture(params=["sft", "sft with an adapter's dropout", "reward model", "pretrain"])
def train(
    request: pytest.FixtureRequest,
    base: Path,
    demonstrations: DatasetDict,
    comparisons: DatasetDict,
    texts: DatasetDict,
) -> Train:
    def supervised(**more: object) -> Train:
        settings = SFTSettings(**COMMON, **more)  # type: ignore[arg-type]
        return lambda out, kept, sink: train_sft(
            base, demonstrations, settings, out, checkpoints=kept, sink=sink
        )

    kinds: Mapping[str, Callable[[], Train]] = {
        "sft": supervised,
        "sft with an adapter's dropout": lambda: supervised(lora=DROPOUT),
        "reward model": lambda: (
            lambda out, kept, sink: train_reward_model(
                base,
                comparisons,
                RewardModelSettings(**COMMON),
                out,
                checkpoints=kept,
                sink=sink,  # type: ignore[arg-type]
            )
        ),
        "pretrain": lambda: (
            lambda out, kept, sink: pretrain(
                texts,
                PretrainSettings(**COMMON, vocabulary_size=400, architecture=SHAPE, steps=16),  # type: ignore[arg-type]
                out,
                checkpoints=kept,
                sink=sink,
            )
        ),
    }
    return kinds[request.param]()


def _without_speed(metrics: Mapping[str, float]) -> dict[str, float]:
    return {k: v for k, v in metrics.items() if k not in {"train/seconds", "train/tokens_per_second"}}


def test_stopped_or_killed_training_ends_with_the_weights_curves_and_figures_of_an_undisturbed_one(
    train: Train, tmp_path: Path
) -> None:
    undisturbed = train(tmp_path / "undisturbed", None, RecordingSink())
    kept = tmp_path / "checkpoints"
    for sink, ending in (
        (KillingSink(4), KeyboardInterrupt),  # before there is a checkpoint
        (KillingSink(7), KeyboardInterrupt),  # within the first epoch, after the checkpoint of step 5
        (StoppingSink(8), InterruptedRunError),  # at the end of the first epoch
        (StoppingSink(11), InterruptedRunError),  # within the second epoch
        (KillingSink(16), KeyboardInterrupt),  # after the last step
    ):
        with pytest.raises(ending):
            train(tmp_path / "model", kept, sink)
        withdraw_stop_request()
        assert not (tmp_path / "model").exists()
    last = RecordingSink()
    continued = train(tmp_path / "model", kept, last)
    assert sorted(path.name for path in kept.glob("update-*")) == ["update-00000016"]
    assert continued.digest == undisturbed.digest
    assert continued.curves == undisturbed.curves == last.curves
    assert _without_speed(continued.metrics) == _without_speed(undisturbed.metrics)


def test_checkpoints_of_other_rows_or_settings_are_not_continued(
    base: Path, demonstrations: DatasetDict, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = SFTSettings(**COMMON)  # type: ignore[arg-type]
    with pytest.raises(InterruptedRunError):
        train_sft(
            base,
            demonstrations,
            settings,
            tmp_path / "a",
            checkpoints=tmp_path / "kept",
            sink=StoppingSink(2),
        )
    withdraw_stop_request()
    fewer = DatasetDict({**demonstrations, "train": demonstrations["train"].select(range(48))})
    trained = train_sft(base, fewer, settings, tmp_path / "a", checkpoints=tmp_path / "kept")
    assert "Training starts anew" in caplog.text
    assert "training rows" in caplog.text
    assert trained.digest == train_sft(base, fewer, settings, tmp_path / "b").digest
