"""A run that the operating system kills, at the worst moments, and that goes on in a fresh process."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killed_run.py")


class Processes:
    """Runs of ``killed_run.py`` on one policy and critic; none outlives the test."""

    def __init__(self, policy: Path, critic: Path) -> None:
        self._models = (str(policy), str(critic))
        self._started: list[subprocess.Popen[str]] = []

    def start(self, output: Path, point: str = "never", update: int = 0) -> "subprocess.Popen[str]":
        command = [sys.executable, str(SCRIPT), *self._models, str(output), point, str(update)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._started.append(process)
        return process

    def stop(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
def processes(policy_path: Path, reward_path: Path):  # type: ignore[no-untyped-def]
    found = Processes(policy_path, reward_path)
    yield found
    found.stop()


def _last_word(process: "subprocess.Popen[str]") -> str:
    """What the process has to say before it waits or ends."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_run_killed_in_rollouts_in_learning_and_in_a_checkpoint_ends_as_if_undisturbed(
    processes: Processes, tmp_path: Path
) -> None:
    undisturbed = processes.start(tmp_path / "straight")
    output = tmp_path / "killed"
    for update, point in enumerate(("rollouts", "learning", "checkpoint"), start=2):
        process = processes.start(output, point, update)
        assert _last_word(process) == "held", point
        process.kill()
        assert process.wait() == -9
        complete = [p.parent.name for p in (output / "checkpoints").glob("update-*/manifest.json")]
        assert complete == [f"update-{update - 1:08d}"], point
    assert list((output / "checkpoints").glob(".*.partial"))  # what the last kill left behind
    resumed = processes.start(output)
    assert _last_word(resumed) == _last_word(undisturbed) == "done"
    files = {p.relative_to(output) for p in output.rglob("*") if p.is_file()}
    assert files == {
        p.relative_to(tmp_path / "straight") for p in (tmp_path / "straight").rglob("*") if p.is_file()
    }
    assert Path("policy/model.safetensors") in files
    for file in files:
        assert (output / file).read_bytes() == (tmp_path / "straight" / file).read_bytes(), file
