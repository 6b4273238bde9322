"""Supervised training on two real processes over gloo against one: the same update, one run, one model."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from datasets import DatasetDict
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

from rlhf.errors import ConfigError, DataError, InterruptedRunError
from rlhf.models.directory import open_directory
from rlhf.models.loading import load_reward_model
from rlhf.tracking import RecordingSink
from rlhf.training.interruption import request_stop, withdraw_stop_request
from rlhf.training.reward_model import train_reward_model
from rlhf.training.settings import LoRASettings, OptimizerSettings, RewardModelSettings, SFTSettings
from rlhf.training.sft import train_sft
from tests.rlhf.training import supervised_on_two

SCRIPT = Path(supervised_on_two.__file__)
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def two(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes left their models."""
    out = tmp_path_factory.mktemp("two")
    shared = {
        **os.environ,
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, str(SCRIPT), str(base), str(out)]
    started = [subprocess.Popen(command, env={**shared, "RANK": rank, "LOCAL_RANK": rank}) for rank in "01"]
    try:
        assert [process.wait(timeout=240) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    return out


@pytest.fixture(scope="module")
def one(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, RecordingSink]]:
    """The folder in which one process left its models, and their curves."""
    out, sinks = tmp_path_factory.mktemp("one"), {}
    for name, train in supervised_on_two.trainings(base, out).items():
        sinks[name] = RecordingSink()
        train(sinks[name])
    return out, sinks


def _weights(path: Path) -> dict[str, Tensor]:
    return load_file(path / "model.safetensors")


@pytest.mark.parametrize("sharding", ["none", "fsdp"])
@pytest.mark.parametrize("name", ["sft", "weighted sft", "reward model"])
def test_the_first_update_on_two_processes_is_that_of_one(
    base: Path, two: Path, one: tuple[Path, dict[str, RecordingSink]], name: str, sharding: str
) -> None:
    before, alone, shared = _weights(base), _weights(one[0] / name), _weights(two / sharding / name)
    assert shared.keys() == alone.keys()
    known = [weight for weight in alone if weight in before]
    update = torch.cat([(alone[weight] - before[weight]).flatten() for weight in known])
    difference = torch.cat([(shared[weight] - alone[weight]).flatten() for weight in alone])
    assert float(update.norm()) > 0.01
    assert float(difference.norm() / update.norm()) <= 1e-5


@pytest.mark.parametrize("sharding", ["none", "fsdp"])
@pytest.mark.parametrize("name", ["sft", "weighted sft", "reward model", "pretrain"])
def test_the_curves_are_of_the_whole_batch(
    two: Path, one: tuple[Path, dict[str, RecordingSink]], name: str, sharding: str
) -> None:
    curves = json.loads((two / "rank0.json").read_text())["curves"][f"{sharding} {name}"]
    alone = one[1][name].curves
    assert curves.keys() - alone.keys() <= {f"{name}/entropy"}  # one process spares itself that
    for figure, points in alone.items():
        for (step, value), (other_step, other) in zip(points, curves[figure], strict=True):
            assert step == other_step
            assert other == pytest.approx(value, rel=1e-4, abs=1e-6), figure


def test_only_the_first_process_reports(two: Path) -> None:
    assert set(json.loads((two / "rank1.json").read_text())["curves"]["none sft"]) == set()


def test_a_run_on_two_processes_resumes_to_the_same_bytes(two: Path) -> None:
    for rank in (0, 1):
        undisturbed, resumed = json.loads((two / f"rank{rank}.json").read_text())["digests"]
        assert resumed == undisturbed
    assert open_directory(two / "resumed").curves == open_directory(two / "undisturbed").curves


SHORT = {
    "batch_size": 8,
    "max_length": 64,
    "logging_steps": 2,
    "evaluations": 1,
    "precision": "fp32",
    "processes": 2,
    "optimizer": OptimizerSettings(learning_rate=1e-2),
}


class Stopping(RecordingSink):
    """Stops the process that launched the others, as a scheduler does."""

    def progress(self, done: int, total: int, note: str = "") -> None:
        if done == 2:
            request_stop()


@pytest.fixture
def _no_stop_request() -> Iterator[None]:
    yield
    withdraw_stop_request()


@pytest.mark.slow
@pytest.mark.usefixtures("_no_stop_request")
def test_processes_of_the_stage_write_a_checkpoint_when_it_is_stopped_and_go_on_from_it(
    base: Path, demonstrations: DatasetDict, tmp_path: Path
) -> None:
    settings = SFTSettings(**SHORT, epochs=40)  # type: ignore[arg-type]
    with pytest.raises(InterruptedRunError, match=r"wrote a checkpoint after step \d+"):
        train_sft(
            base, demonstrations, settings, tmp_path / "m", checkpoints=tmp_path / "kept", sink=Stopping()
        )
    [checkpoint] = (tmp_path / "kept").glob("update-*")
    reached = int(checkpoint.name.partition("-")[2])
    withdraw_stop_request()
    sink = RecordingSink()
    settings = settings.model_copy(update={"processes": 1})
    policy = train_sft(
        base, demonstrations, settings, tmp_path / "m", checkpoints=tmp_path / "kept", sink=sink
    )
    assert policy.metrics["train/steps"] == 320 > reached
    assert [step for step, _ in sink.curves["sft/loss"]] == list(range(2, 321, 2))


@pytest.mark.slow
def test_processes_of_the_stage_leave_a_reward_model_that_loads(
    base: Path, comparisons: DatasetDict, tmp_path: Path
) -> None:
    settings = RewardModelSettings(**SHORT, sharding="fsdp")  # type: ignore[arg-type]
    sink = RecordingSink()
    trained = train_reward_model(
        base, comparisons, settings, tmp_path / "model", sink=sink, checkpoints=tmp_path / "kept"
    )
    assert trained.kind == "reward-model"
    assert load_reward_model(trained.path).config.num_labels == 1
    assert trained.metrics["eval/accuracy"] == 1.0
    assert sink.curves["reward/loss"] == trained.curves["reward/loss"]


@pytest.mark.slow
def test_what_a_worker_cannot_use_is_told_as_by_one_process(
    base: Path, demonstrations: DatasetDict, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"^SFT on 2 processes: There are no demonstrations to train on"):
        train_sft(
            base,
            DatasetDict(dev=demonstrations["dev"]),
            SFTSettings(**SHORT),  # type: ignore[arg-type]
            tmp_path / "model",
            checkpoints=tmp_path / "kept",
        )
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch_size": 9, "processes": 2}, "not a multiple of the 2 processes"),
        ({"batch_size": 12, "processes": 2, "micro_batch_size": 4}, "micro_batch_size 4 times 2 processes"),
        ({"processes": 2, "sharding": "fsdp", "lora": LoRASettings()}, "does not go with lora"),
    ],
)
def test_settings_that_processes_cannot_share_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SFTSettings(**given)  # type: ignore[arg-type]


def test_weights_are_not_shared_by_one_process(
    base: Path, demonstrations: DatasetDict, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"sft\.sharding: fsdp .* this is one; raise sft\.processes"):
        train_sft(base, demonstrations, SFTSettings(sharding="fsdp", max_length=64), tmp_path / "model")
