"""Workers started by the stage: what they report arrives, what they suffer is said, none is left behind."""

import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
import torch
from datasets import Dataset, DatasetDict
from torch.distributed.elastic.multiprocessing.errors import record
from transformers import AutoModelForCausalLM

from rlhf.errors import CheckpointError, ConfigError, InterruptedRunError, TrainingError
from rlhf.models.chat import Prompt
from rlhf.models.settings_generation import GenerationSettings
from rlhf.models.settings_rewards import FunctionRewardSettings, RulesRewardSettings
from rlhf.models.settings_rules import LengthRule
from rlhf.tracking import NullSink, RecordingSink
from rlhf.training.interruption import request_stop, withdraw_stop_request
from rlhf.training.launch import failure
from rlhf.training.policy import train_policy
from rlhf.training.ppo.launch import PPOJob, launch_ppo
from rlhf.training.ppo.learner import NonFiniteLossError
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.worker import JSONLinesSink, replay

Settings = Callable[..., PPOSettings]
Found = TypeVar("Found")

JOB = PPOJob.model_construct()
LENGTH = RulesRewardSettings(rules=(LengthRule(maximum=3),))
REWARDS = """
import os, signal

def nan(prompts, completions):
    return [float("nan") for _ in prompts]

def fatal(prompts, completions):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of rewards that is importable here only because this process's path says so."""
    (tmp_path / "rewards_of_this_test.py").write_text(REWARDS)
    monkeypatch.syspath_prepend(tmp_path)


class Interrupted(NullSink):
    """The user presses Ctrl-C at the first update."""

    def __init__(self) -> None:
        self.workers: list[psutil.Process] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self.workers = psutil.Process().children(recursive=True)
        raise KeyboardInterrupt


class Stopping(NullSink):
    """A scheduler stops the launching process at the second update."""

    def progress(self, done: int, total: int, note: str = "") -> None:
        if done == 2:
            request_stop()


class Slow(RecordingSink):
    """Looks at what the workers listen on, and is busy until they have long ended."""

    def __init__(self) -> None:
        super().__init__()
        self.listening: set[str] = set()
        """Addresses on which a worker listened at any time."""
        self.done = 0
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()

    def _look(self) -> None:
        while not self._over.wait(0.05):
            for worker in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):  # it has ended
                    self.listening |= {
                        connection.laddr.ip
                        for connection in worker.net_connections("inet")
                        if connection.status == psutil.CONN_LISTEN
                    }

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        if not self.curves:
            psutil.wait_procs(psutil.Process().children(recursive=True), timeout=30)
            self._over.set()
            self._watch.join()
        super().log_metrics(metrics, step)

    def progress(self, done: int, total: int, note: str = "") -> None:
        self.done = done


def test_the_stage_trains_on_two_processes_as_on_one(
    policy_path: Path, reward_path: Path, make_settings: Settings, prompts: list[str], tmp_path: Path
) -> None:
    rows = {
        "train": Dataset.from_dict({"prompt": prompts}),
        "dev": Dataset.from_dict({"prompt": prompts[:5]}),
    }
    found = []
    for processes in (1, 2):
        sink = RecordingSink()
        folder = tmp_path / str(processes)
        trained = train_policy(
            policy_path,
            proxy=reward_path,
            selection=reward_path,
            prompts=DatasetDict(rows),
            settings=make_settings(updates=2, learning_rate=1e-3, processes=processes),
            output_dir=folder / "model",
            work_dir=folder / "work",
            seed=0,
            sink=sink,
        )
        found.append((trained, sink))
    (one, one_sink), (two, two_sink) = found
    assert two_sink.curves.keys() == one_sink.curves.keys()
    for name, curve in one_sink.curves.items():
        if "seconds" not in name:
            assert [step for step, _ in two_sink.curves[name]] == [step for step, _ in curve], name
    assert two_sink.curves["ppo/reward"][0] == pytest.approx(one_sink.curves["ppo/reward"][0])
    assert two.frontier["completion"] == one.frontier["completion"]
    weights = [AutoModelForCausalLM.from_pretrained(t.policy.path).state_dict() for t in (one, two)]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def launched(policy_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Slow, Path]:
    """The sink and the folder of a run that its sink could not keep up with."""
    folder, sink = tmp_path_factory.mktemp("launched"), Slow()
    (folder / "processes").mkdir()
    (folder / "processes/of the caller").touch()
    settings = PPOSettings(
        processes=2,
        updates=3,
        epochs=1,
        rollout_batch_size=8,
        generation=GenerationSettings(max_new_tokens=8),
    )
    launch_ppo(
        policy_path, LENGTH, ["a b", "c"], settings,
        output_dir=folder / "out", work_dir=folder / "processes", sink=sink,
    )  # fmt: skip
    return sink, folder / "processes"


def test_the_workers_listen_to_nobody_outside_of_this_machine(launched: tuple[Slow, Path]) -> None:
    sink, _ = launched
    assert sink.listening
    assert [address for address in sink.listening if not ip_address(address).is_loopback] == []


def test_a_sink_that_is_slower_than_training_misses_nothing(launched: tuple[Slow, Path]) -> None:
    sink, _ = launched
    assert [step for step, _ in sink.curves["ppo/reward"]] == [1, 2, 3]
    assert sink.done == 3


def test_a_launch_leaves_the_work_directory_as_it_was_beside_a_private_one_of_its_own(
    launched: tuple[Slow, Path],
) -> None:
    _, work_dir = launched
    own = [path for path in work_dir.iterdir() if path.name != "of the caller"]
    assert (work_dir / "of the caller").exists()
    assert len(own) == 1
    assert stat.S_IMODE(own[0].stat().st_mode) == 0o700
    assert {"worker0.log", "worker1.log", "job.json"} <= {path.name for path in own[0].iterdir()}


def test_an_output_directory_inside_of_the_work_directory_is_refused(
    policy_path: Path, make_settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="lies in the scratch directory"):
        launch_ppo(
            policy_path, FunctionRewardSettings(function="a:b"), ["a"], make_settings(processes=2),
            output_dir=tmp_path / "work/out", work_dir=tmp_path / "work",
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("rewards")
def test_a_score_that_is_not_finite_in_one_worker_is_the_error_of_the_run(
    policy_path: Path, make_settings: Settings, prompts: list[str], tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=r"PPO on 2 processes: .*nan for sample 0") as caught:
        _launch(policy_path, "nan", make_settings(processes=2), prompts, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("rewards")
def test_a_worker_that_was_killed_is_named_before_those_that_lost_it(
    policy_path: Path, make_settings: Settings, prompts: list[str], tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=r"^PPO worker 0 of 2 was killed by SIGKILL, probably out of mem"):
        _launch(policy_path, "fatal", make_settings(processes=2), prompts, tmp_path)
    (survivor,) = (tmp_path / "processes").rglob("worker1.error.json")
    assert "onnection" in survivor.read_text()


def _fail(folder: Path, rank: int, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave an error as a worker leaves it."""

    def failing() -> None:
        raise error

    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(folder / f"worker{rank}.error.json"))
    with pytest.raises(type(error)):
        record(failing)()


def test_an_unforeseen_failure_shows_the_end_of_the_first_workers_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail(tmp_path, 1, KeyError("the cause"), monkeypatch)
    _fail(tmp_path, 0, KeyError("its consequence"), monkeypatch)
    message = str(failure(JOB, tmp_path, [1, 1]))
    assert message.startswith("PPO worker 1 of 2 failed:\n")
    assert message.endswith("KeyError: 'the cause'")


def test_a_worker_that_only_aborted_because_another_failed_is_not_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail(tmp_path, 1, NonFiniteLossError("The policy loss", [0]), monkeypatch)
    message = str(failure(JOB, tmp_path, [-signal.SIGABRT, 1]))
    assert message == "PPO on 2 processes: The policy loss is not finite."


def test_a_checkpoint_that_workers_refuse_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail(tmp_path, 0, CheckpointError("The checkpoint is of other code."), monkeypatch)
    refused = failure(JOB, tmp_path, [1, -signal.SIGABRT])
    assert isinstance(refused, CheckpointError)
    assert str(refused) == "PPO on 2 processes: The checkpoint is of other code."


@pytest.mark.parametrize(
    ("code", "how"),
    [(-signal.SIGSEGV, "was killed by SIGSEGV"), (3, "ended with code 3 and without an error")],
)
def test_a_worker_that_ended_without_a_word_shows_the_end_of_its_log(
    tmp_path: Path, code: int, how: str
) -> None:
    (tmp_path / "worker1.log").write_text("\n".join(f"line {i}" for i in range(100)))
    message = str(failure(JOB, tmp_path, [None, code]))
    assert message.startswith(f"PPO worker 1 of 2 {how}")
    assert message.endswith("line 99")
    assert "line 50" not in message


def test_no_worker_outlives_the_one_that_launched_it(
    policy_path: Path, make_settings: Settings, prompts: list[str], tmp_path: Path
) -> None:
    settings, sink = make_settings(processes=2, updates=100_000), Interrupted()
    with pytest.raises(KeyboardInterrupt):
        _launch(policy_path, None, settings, prompts, tmp_path, sink=sink)
    assert len(sink.workers) == 2
    assert [worker for worker in sink.workers if worker.is_running()] == []


@pytest.mark.slow
def test_a_stop_that_is_requested_of_the_launcher_ends_all_workers_with_a_checkpoint(
    policy_path: Path, make_settings: Settings, prompts: list[str], tmp_path: Path
) -> None:
    settings = make_settings(processes=2, updates=100_000)
    try:
        with pytest.raises(InterruptedRunError, match=r"wrote a checkpoint after update \d+"):
            _launch(policy_path, None, settings, prompts, tmp_path, sink=Stopping())
    finally:
        withdraw_stop_request()
    assert len(list((tmp_path / "out/checkpoints").glob("update-*/manifest.json"))) == 1


def test_the_workers_end_when_the_one_that_launched_them_is_killed(
    policy_path: Path, make_settings: Settings, prompts: list[str], tmp_path: Path
) -> None:
    settings = make_settings(processes=2, updates=100_000)
    script = tmp_path / "launches.py"
    script.write_text(
        f"""from pathlib import Path
from rlhf.models.settings_rewards import RulesRewardSettings
from rlhf.training.ppo.launch import launch_ppo
from rlhf.training.ppo.settings import PPOSettings
folder = Path({str(tmp_path)!r})
launch_ppo(
    Path({str(policy_path)!r}),
    RulesRewardSettings.model_validate_json({LENGTH.model_dump_json()!r}),
    {prompts!r},
    PPOSettings.model_validate_json({settings.model_dump_json()!r}),
    output_dir=folder / "out",
    work_dir=folder / "processes",
)
"""
    )
    launching = psutil.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": _path()})
    try:
        messages = _eventually(
            lambda: [m for m in tmp_path.rglob("messages.jsonl") if m.stat().st_size],
            lambda found: found != [],
        )
        workers = launching.children(recursive=True)
    finally:
        launching.kill()
        launching.wait()
    assert messages != []
    assert len(workers) == 2
    _, left = psutil.wait_procs(workers, timeout=60)
    assert left == []


def test_more_processes_than_gpus_are_refused_before_any_starts(
    policy_path: Path, make_settings: Settings, prompts: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="has 1 GPU"):
        _launch(policy_path, None, make_settings(processes=2), prompts, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_worker_says_to_its_sink_is_said_to_ours(tmp_path: Path) -> None:
    class Listening:
        def __init__(self) -> None:
            self.heard: list[object] = []

        def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
            self.heard.append((metrics, step))

        def log_params(self, params: Mapping[str, object]) -> None:
            self.heard.append(params)

        def log_text(self, text: str, name: str) -> None:
            self.heard.append((text, name))

        def progress(self, done: int, total: int, note: str = "") -> None:
            self.heard.append((done, total, note))

    near, far = Listening(), JSONLinesSink(tmp_path / "messages.jsonl")
    for sink in (near, far):
        sink.log_metrics({"ppo/reward": 0.1 + 0.2}, 3)
        sink.log_params({"ppo/seed": 1})
        sink.log_text("zwei\nZeilen", "notes.md")
        sink.progress(1, 2, "half")
    again = Listening()
    for line in (tmp_path / "messages.jsonl").read_bytes().splitlines():
        replay(line, again)
    assert again.heard == near.heard


def _launch(
    policy: Path,
    function: str | None,
    settings: PPOSettings,
    prompts: Sequence[Prompt],
    folder: Path,
    **options: object,
) -> None:
    launch_ppo(
        policy,
        FunctionRewardSettings(function=f"rewards_of_this_test:{function}") if function else LENGTH,
        prompts,
        settings,
        output_dir=folder / "out",
        work_dir=folder / "processes",
        **options,  # type: ignore[arg-type]
    )


def _path() -> str:
    return os.pathsep.join(p for p in sys.path if p)


def _eventually(look: Callable[[], Found], satisfied: Callable[[Found], bool]) -> Found:
    """What is seen once it satisfies, or after a minute."""
    deadline = time.monotonic() + 60
    while not satisfied(found := look()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found
