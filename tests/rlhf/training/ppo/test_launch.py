"""Workers started by the stage: what they report arrives, what they suffer is said, none is left behind."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from datasets import Dataset, DatasetDict
from torch.distributed.elastic.multiprocessing.errors import record
from transformers import AutoModelForCausalLM

from rlhf.errors import ConfigError, TrainingError
from rlhf.models.chat import Prompt
from rlhf.models.settings_rewards import FunctionRewardSettings
from rlhf.tracking import NullSink, RecordingSink
from rlhf.training.policy import train_policy
from rlhf.training.ppo.launch import failure_message, launch_ppo
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.ppo.worker import JSONLinesSink, replay

Settings = Callable[..., PPOSettings]
Found = TypeVar("Found")

REWARDS = '''
import os

def pid(prompts, completions):
    """Says which process it was asked in, and is no number in one of the two."""
    with open(os.environ["PIDS"], "a") as file:
        file.write(f"{os.getpid()}\\n")
    return [float("nan") if os.environ.get("BROKEN") == os.environ["RANK"] else 0.0 for _ in prompts]
'''


@pytest.fixture
def rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that is importable here only because this process's path says so; returns the file of pids."""
    (tmp_path / "rewards_of_this_test.py").write_text(REWARDS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PIDS", str(tmp_path / "pids"))
    return tmp_path / "pids"


class Interrupted(NullSink):
    """The user presses Ctrl-C at the first update."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        raise KeyboardInterrupt


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


@pytest.mark.usefixtures("rewards")
def test_a_score_that_is_not_finite_in_one_worker_is_the_error_of_the_run(
    policy_path: Path, make_settings: Settings, prompts: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("BROKEN", "1")
    with pytest.raises(TrainingError, match=r"PPO on 2 processes: .*nan for sample 0") as caught:
        _launch(policy_path, "pid", make_settings(processes=2), prompts, tmp_path)
    assert "\n" not in str(caught.value)


def test_an_unforeseen_failure_shows_the_end_of_the_first_workers_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lookup(key: str) -> None:
        raise KeyError(key)

    for rank, key in ((1, "the cause"), (0, "its consequence")):
        folder = tmp_path / f"logs/run/attempt_0/{rank}"
        folder.mkdir(parents=True)
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(folder / "error.json"))
        with pytest.raises(KeyError):
            record(lookup)(key)
    message = failure_message(tmp_path, 2)
    assert message.startswith("PPO worker 1 of 2 failed:\n")
    assert message.endswith("KeyError: 'the cause'")


def test_a_worker_that_was_killed_shows_the_launchers_log(tmp_path: Path) -> None:
    (tmp_path / "launcher.log").write_text("\n".join(f"line {i}" for i in range(100)))
    message = failure_message(tmp_path, 2)
    assert "line 99" in message
    assert "line 50" not in message


def test_no_worker_outlives_the_one_that_launched_it(
    policy_path: Path, make_settings: Settings, prompts: list[str], tmp_path: Path, rewards: Path
) -> None:
    settings = make_settings(processes=2, updates=100_000)
    with pytest.raises(KeyboardInterrupt):
        _launch(policy_path, "pid", settings, prompts, tmp_path, sink=Interrupted())
    pids = _pids(rewards)
    assert len(pids) == 2
    assert [pid for pid in pids if _alive(pid)] == []


def test_the_workers_end_when_the_one_that_launched_them_is_killed(
    policy_path: Path, make_settings: Settings, prompts: list[str], tmp_path: Path, rewards: Path
) -> None:
    settings = make_settings(processes=2, updates=100_000)
    script = tmp_path / "launches.py"
    script.write_text(
        f"""from pathlib import Path
from rlhf.models.settings_rewards import FunctionRewardSettings
from rlhf.training.ppo.launch import launch_ppo
from rlhf.training.ppo.settings import PPOSettings
folder = Path({str(tmp_path)!r})
launch_ppo(
    Path({str(policy_path)!r}),
    FunctionRewardSettings(function="rewards_of_this_test:pid"),
    {prompts!r},
    PPOSettings.model_validate_json({settings.model_dump_json()!r}),
    output_dir=folder / "out",
    work_dir=folder / "processes",
)
"""
    )
    launching = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": _path()})
    try:
        pids = _eventually(lambda: _pids(rewards), lambda found: len(found) == 2)
    finally:
        launching.kill()
        launching.wait()
    assert _eventually(lambda: [pid for pid in pids if _alive(pid)], lambda left: left == []) == []


def test_more_processes_than_gpus_are_refused_before_any_starts(
    policy_path: Path, make_settings: Settings, prompts: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="has 1 GPU"):
        _launch(policy_path, "pid", make_settings(processes=2), prompts, tmp_path)
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
    function: str,
    settings: PPOSettings,
    prompts: Sequence[Prompt],
    folder: Path,
    **options: object,
) -> None:
    launch_ppo(
        policy,
        FunctionRewardSettings(function=f"rewards_of_this_test:{function}"),
        prompts,
        settings,
        output_dir=folder / "out",
        work_dir=folder / "processes",
        **options,  # type: ignore[arg-type]
    )


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _pids(file: Path) -> set[int]:
    return {int(line) for line in file.read_text().splitlines()} if file.exists() else set()


def _path() -> str:
    return os.pathsep.join(p for p in sys.path if p)


def _eventually(look: Callable[[], Found], satisfied: Callable[[Found], bool]) -> Found:
    """What is seen once it satisfies, or after a minute."""
    deadline = time.monotonic() + 60
    while not satisfied(found := look()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found
