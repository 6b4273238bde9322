"""A pipeline run that the operating system kills within policy training, and the next run of its config."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from zenml.client import Client
from zenml.models import PipelineRunResponse

from ops import environment, launch
from rlhf.models.directory import ModelDirectory
from tests.pipelines.conftest import TINY, finished
from tests.pipelines.test_rlhf_pipeline import NEVER_CACHED

LONGER = ["ppo.updates=40", "ppo.checkpoint_every=1", "ppo.evaluate_every=40"]
PATIENCE_SECONDS = 120.0


def _checkpoints() -> list[Path]:
    return sorted(environment.scratch().glob("ppo-*/ppo/checkpoints/update-*/manifest.json"))


def _policy(run: PipelineRunResponse) -> str:
    [artifact] = run.steps["train_policy"].outputs["policy"]
    policy = artifact.load()
    assert isinstance(policy, ModelDirectory)
    return policy.digest


def _killed_in_training() -> None:
    """Start a run like a user does, and kill it between two updates."""
    command = [sys.executable, "-m", "ops.cli", "run", str(TINY), *LONGER]
    process = subprocess.Popen(
        command, cwd=environment.PROJECT_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(_checkpoints()) == 0 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    said, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    assert _checkpoints(), said


def test_a_killed_run_is_continued_by_the_next_one_and_ends_as_if_undisturbed(
    first_run: PipelineRunResponse, caplog: pytest.LogCaptureFixture
) -> None:
    _killed_in_training()
    at = int(_checkpoints()[-1].parent.name.removeprefix("update-"))
    assert 1 <= at < 40
    caplog.set_level("INFO")
    continued = finished(launch.run(str(TINY), LONGER))
    assert f"Resumed PPO after update {at}" in caplog.text
    ran = {name for name, step in continued.steps.items() if step.status.value == "completed"}
    assert ran == NEVER_CACHED | {"train_policy", "evaluate_policy"}
    assert not list(environment.scratch().glob("ppo-*/*"))
    caplog.clear()
    undisturbed = finished(launch.run(str(TINY), [*LONGER, "steps.train_policy.enable_cache=false"]))
    assert "Resumed PPO" not in caplog.text
    assert undisturbed.steps["train_policy"].status.value == "completed"
    assert _policy(continued) == _policy(undisturbed)


def test_a_changed_reward_model_is_not_taken_for_the_one_that_was_there_before(
    first_run: PipelineRunResponse, tmp_path: Path
) -> None:
    [artifact] = first_run.steps["train_proxy_reward_model"].outputs["reward_model"]
    proxy = artifact.load()
    assert isinstance(proxy, ModelDirectory)
    pipeline = [f"reward={{type: reward_model, path: {tmp_path / 'rm'}}}", "algorithm=rloo"]

    def trained() -> str:
        run = Client().get_pipeline_run(launch.run(str(TINY), pipeline).id)
        return run.steps["train_policy"].status.value

    shutil.copytree(proxy.path, tmp_path / "rm")
    assert [trained(), trained()] == ["completed", "cached"]
    [other] = first_run.steps["train_selection_reward_model"].outputs["reward_model"]
    shutil.copytree(other.load().path, tmp_path / "rm", dirs_exist_ok=True)
    assert trained() == "completed"
