"""Sentences about the retraining check, proved on real ZenML and MLflow runs."""

import subprocess
import sys

import pytest
from mlflow.tracking import MlflowClient
from zenml.client import Client
from zenml.models import PipelineRunResponse

from ops import environment, launch
from ops.stage import MLFLOW_RUN_ID
from tests.pipelines.conftest import TINY, finished

pytestmark = pytest.mark.slow

LOADS_NO_TORCH = """
import runpy, sys
sys.argv = ["rlhf", "retrain", sys.argv[1]]
try:
    runpy.run_module("ops.cli", run_name="__main__")
except SystemExit as ended:
    assert not ended.code
assert "torch" not in sys.modules
"""
MORE = "feedback.sources.0.settings.comparisons=200"


def test_without_new_feedback_the_check_ends_green_and_says_why_in_both_uis(
    first_run: PipelineRunResponse, mlflow: MlflowClient
) -> None:
    check = finished(launch.retrain(str(TINY)))
    assert check.run_metadata["retraining"] == "not needed"
    assert "exactly this feedback" in str(check.run_metadata["reason"])
    said = mlflow.get_run(str(check.run_metadata[MLFLOW_RUN_ID]))
    assert said.data.tags["retraining"] == "not needed"
    assert said.info.status == "FINISHED"
    assert check.steps["start_training"].outputs["training_run"][0].load() == ""


def test_a_check_without_new_feedback_is_a_command_that_loads_no_torch(
    first_run: PipelineRunResponse,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADS_NO_TORCH, str(TINY)],
        cwd=environment.PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Not needed, because" in done.stdout


def test_too_few_new_pairs_are_counted_and_wait(first_run: PipelineRunResponse) -> None:
    check = finished(launch.retrain(str(TINY), [MORE, "retraining.minimum_new_pairs=1000"]))
    assert check.run_metadata["retraining"] == "not needed"
    report = check.steps["decide_retraining"].outputs["retraining_decision"][0].load()
    assert 0 < report.data["figures"]["new effective pairs"] < 1000


def test_enough_new_pairs_start_a_run_pinned_to_the_sequence_that_was_judged(
    first_run: PipelineRunResponse,
) -> None:
    short = ["sft.max_steps=1", "reward_model.max_steps=1", "ppo.updates=1"]
    check = finished(launch.retrain(str(TINY), [MORE, *short, "retraining.minimum_new_pairs=5"]))
    assert check.run_metadata["retraining"] == "needed"
    judged = check.steps["ingest_feedback"].outputs["feedback"][0].load()
    trained = Client().get_pipeline_run(str(check.run_metadata["training_run"]))
    assert trained.status.value == "completed"
    assert trained.run_metadata["started_by"] == check.name
    assert trained.steps["ingest_feedback"].outputs["feedback"][0].load() == judged
    again = finished(launch.retrain(str(TINY), [MORE, "retraining.minimum_new_pairs=5"]))
    assert trained.name in str(again.run_metadata["reason"])
