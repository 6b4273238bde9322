"""A pipeline run that the operating system kills within training, and the next runs of its config."""

import os
import shutil
import signal
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from zenml.client import Client
from zenml.models import PipelineRunResponse

from ops import environment, launch
from ops.continuation import INTERRUPTED
from rlhf.errors import ConfigError
from rlhf.models.directory import ModelDirectory
from tests.pipelines.conftest import TINY, finished
from tests.pipelines.killed_runs import curves_of, killed_when
from tests.pipelines.test_rlhf_pipeline import NEVER_CACHED

pytestmark = pytest.mark.slow

# never promoted: the champion of this session is the first run's
REJECTED = 'promotion.criteria=[{"metric": "eval/kl", "maximum": -1000.0}]'
LONGER = [
    REJECTED,
    "sft.epochs=2",
    "sft.checkpoint_every=1",
    "ppo.updates=40",
    "ppo.checkpoint_every=1",
    "ppo.evaluate_every=40",
]


def _checkpoints(of: str) -> list[Path]:
    root = environment.artifact_store() / "checkpoints"
    return sorted(root.glob(f"{of}/update-*/manifest.json"))


def _policy(run: PipelineRunResponse) -> str:
    [artifact] = run.steps["train_policy"].outputs["policy"]
    policy = artifact.load()
    assert isinstance(policy, ModelDirectory)
    return policy.digest


def test_a_run_killed_in_one_stage_and_stopped_in_another_is_continued_and_ends_as_if_undisturbed(
    first_run: PipelineRunResponse, mlflow: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    sft, ppo = "sft-*", "ppo-*/ppo/checkpoints"
    killed_when([str(TINY), *LONGER], os.environ, lambda said: bool(_checkpoints(sft)))
    assert _checkpoints(sft)
    said = killed_when(
        [str(TINY), *LONGER], os.environ, lambda said: bool(_checkpoints(ppo)), number=signal.SIGTERM
    )
    assert said.endswith("exit status 75")
    assert "This run goes on with" in said
    assert "Resumed training after step" in said
    at = int(_checkpoints(ppo)[-1].parent.name.removeprefix("update-"))
    assert 1 <= at < 40
    caplog.set_level("INFO")
    continued = finished(launch.run(None, resume=True))
    assert f"Resumed PPO after update {at}" in caplog.text
    ran = {name for name, step in continued.steps.items() if step.status.value == "completed"}
    assert ran == NEVER_CACHED | {"train_policy", "evaluate_policy"}
    assert not list(environment.artifact_store().glob("checkpoints/*/*"))
    pipeline = continued.pipeline
    assert pipeline is not None
    runs = Client().list_pipeline_runs(pipeline=pipeline.id, sort_by="desc:created", hydrate=True).items
    chain = [(run.status.value, INTERRUPTED in run.run_metadata) for run in runs[:3]]
    assert chain == [("completed", False), ("failed", True), ("failed", True)]

    caplog.clear()
    afresh = ["steps.train_sft.enable_cache=false", "steps.train_policy.enable_cache=false"]
    undisturbed = finished(launch.run(str(TINY), [*LONGER, *afresh]))
    assert "Resumed" not in caplog.text
    assert undisturbed.steps["train_policy"].status.value == "completed"
    assert _policy(continued) == _policy(undisturbed)
    curves = [curves_of(mlflow, run) for run in (str(runs[2].id), str(undisturbed.id))]
    assert len(curves[0]["ppo/kl"]) == 40
    for name in ("ppo/kl", "ppo/reward", "ppo_eval/kl", "sft/loss", "sft/eval/loss"):
        assert curves[0][name] == curves[1][name]
    with pytest.raises(ConfigError, match="There is no interrupted or failed run"):
        launch.run(str(TINY), LONGER, resume=True)


def test_a_changed_reward_model_is_not_taken_for_the_one_that_was_there_before(
    first_run: PipelineRunResponse, tmp_path: Path
) -> None:
    [artifact] = first_run.steps["train_proxy_reward_model"].outputs["reward_model"]
    proxy = artifact.load()
    assert isinstance(proxy, ModelDirectory)
    pipeline = [f"reward={{type: reward_model, path: {tmp_path / 'rm'}}}", "algorithm=rloo", REJECTED]

    def trained() -> str:
        run = Client().get_pipeline_run(launch.run(str(TINY), pipeline).id)
        return run.steps["train_policy"].status.value

    shutil.copytree(proxy.path, tmp_path / "rm")
    assert [trained(), trained()] == ["completed", "cached"]
    [other] = first_run.steps["train_selection_reward_model"].outputs["reward_model"]
    shutil.copytree(other.load().path, tmp_path / "rm", dirs_exist_ok=True)
    assert trained() == "completed"
