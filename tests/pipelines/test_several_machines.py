"""A step's training on two machines, both of them this one: the pipeline takes up what they leave."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from zenml.models import PipelineRunResponse

from ops import environment, launch
from ops.training_jobs import as_yaml, job_of_step
from rlhf.errors import ConfigError
from rlhf.models.directory import ModelDirectory
from tests.integration.mlflow_server import free_port
from tests.pipelines.conftest import TINY, finished

pytestmark = pytest.mark.slow

REJECTED = 'promotion.criteria=[{"metric": "eval/kl", "maximum": -1000.0}]'


def _policy(run: PipelineRunResponse) -> ModelDirectory:
    [artifact] = run.steps["train_sft"].outputs["sft_policy"]
    policy = artifact.load()
    assert isinstance(policy, ModelDirectory)
    return policy


def test_a_step_delivers_what_two_machines_have_trained_for_it(
    first_run: PipelineRunResponse, mlflow: MlflowClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = job_of_step(first_run.name, "train_sft", ["checkpoint_every=7"])
    (tmp_path / "job.yaml").write_text(as_yaml(job))
    port = str(free_port())
    machines = [
        subprocess.Popen(
            [sys.executable, "-m", "ops.cli", "job", "run", str(tmp_path / "job.yaml")],
            cwd=environment.PROJECT_ROOT,
            env={
                **os.environ,
                "PET_NNODES": "2",
                "PET_NODE_RANK": str(rank),
                "PET_MASTER_ADDR": "127.0.0.1",
                "PET_MASTER_PORT": port,
                "GLOO_SOCKET_IFNAME": "lo",
            },
        )
        for rank in (0, 1)
    ]
    try:
        assert [machine.wait(timeout=240) for machine in machines] == [0, 0]
    finally:
        for machine in machines:
            machine.kill()
    before = _policy(first_run)
    steps = int(before.metrics["train/steps"])
    folder = environment.artifact_store() / "checkpoints" / job.checkpoints
    assert [path.name for path in folder.glob("update-*")] == [f"update-{steps:08d}"]

    caplog.set_level("INFO")
    run = finished(launch.run(str(TINY), ["steps.train_sft.enable_cache=false", REJECTED]))
    assert f"Resumed training after step {steps}" in caplog.text
    after = _policy(run)
    assert after.metrics["train/steps"] == steps
    assert [step for step, _ in after.curves["sft/loss"]] == [step for step, _ in before.curves["sft/loss"]]
    assert after.metrics["eval/loss"] == pytest.approx(before.metrics["eval/loss"], rel=1e-3)
    assert not folder.exists()


def test_a_step_that_does_not_train_or_has_not_begun_is_no_job(first_run: PipelineRunResponse) -> None:
    with pytest.raises(ConfigError, match="train_policy trains on one machine"):
        job_of_step(first_run.name, "train_policy")
    with pytest.raises(ConfigError, match=r"train_nothing of .* has not begun"):
        job_of_step(first_run.name, "train_nothing")
    with pytest.raises(ConfigError, match="There is no run named nothing"):
        job_of_step("nothing", "train_sft")
