"""Runs killed at random moments of every stage, again and again: they end as undisturbed ones do.

`make test-recovery`. Each seed is a chain of kills in a state folder of its own, compared with an undisturbed
run in another.
"""

import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from ops.tags import DIGEST_TAG, PIPELINE_RUN_TAG
from rlhf.registry.store import POLICY
from tests.pipelines.conftest import TINY
from tests.pipelines.killed_runs import killed_when

SEEDS = range(5)
# the stages of a run, where their checkpoints are, and the last one at which a kill may strike
STAGES = {
    "train_sft": ("sft-*", 18),
    "train_proxy_reward_model": ("reward_proxy-*", 10),
    "train_selection_reward_model": ("reward_selection-*", 10),
    "train_policy": ("ppo-*/ppo/checkpoints", 18),
    "evaluate_policy": (None, 0),
    "promote_policy": (None, 0),
}
SECONDS = 1.0
"""Within which the kill comes after the chosen checkpoint, or after the start of a stage that has none."""
LONGER = [
    "sft.epochs=3",
    "sft.checkpoint_every=2",
    "reward_model.epochs=3",
    "reward_model.checkpoint_every=2",
    "ppo.updates=20",
    "ppo.checkpoint_every=2",
    "ppo.evaluate_every=5",
]
SPEED = ("seconds", "tokens_per_second", "_share", "memory")


def _variables(home: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ZENML_", "MLFLOW_", "RLHF_"))}
    return {**kept, "RLHF_HOME": str(home)}


def _tracking(home: Path) -> MlflowClient:
    uri = f"sqlite:///{home}/mlflow/mlflow.db"
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _metrics(client: MlflowClient) -> Mapping[str, list[tuple[int, float]]]:
    """The curves of the only MLflow run that there is, without those of speed."""
    experiment = client.get_experiment_by_name("rlhf_pipeline")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id], f"tags.`{PIPELINE_RUN_TAG}` != ''")
    assert run.info.status == "FINISHED"
    return {
        name: sorted((p.step, p.value) for p in client.get_metric_history(run.info.run_id, name))
        for name in run.data.metrics
        if not any(word in name for word in SPEED)
    }


def _registered(client: MlflowClient) -> list[str]:
    return [version.tags[DIGEST_TAG] for version in client.search_model_versions(f"name = '{POLICY}'")]


def _reached(home: Path, stage: str, moments: random.Random) -> Callable[[str], bool]:
    """Whether a stage has come to a random one of its checkpoints, the start among them, or has ended."""
    folder, last = STAGES[stage]
    chosen = moments.randint(0, last)

    def reached(said: str) -> bool:
        if not chosen:
            return f"Step {stage} has started" in said
        found = [
            path.parent.name for path in home.glob(f"artifacts/checkpoints/{folder}/update-*/manifest.json")
        ]
        return f"Step {stage} has finished" in said or any(int(name[7:]) >= chosen for name in found)

    return reached


@pytest.mark.recovery
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_killed_in_every_stage_ends_with_the_weights_curves_and_registry_of_an_undisturbed_one(
    seed: int, tmp_path: Path
) -> None:
    moments = random.Random(seed)
    arguments = [str(TINY), f"seed={seed}", *LONGER]
    killed, calm = _variables(tmp_path / "killed"), _variables(tmp_path / "calm")
    for stage in STAGES:
        said = killed_when(
            arguments,
            killed,
            _reached(tmp_path / "killed", stage, moments),
            after=moments.uniform(0.0, SECONDS),
        )
        assert said.endswith("exit status -9"), said[-3000:]
    for variables in (killed, calm):
        said = killed_when(arguments, variables, lambda said: False)
        assert said.endswith("exit status 0"), said[-3000:]
    outcomes = [_tracking(tmp_path / name) for name in ("killed", "calm")]
    [digest], [expected] = map(_registered, outcomes)
    assert digest == expected
    curves, undisturbed = map(_metrics, outcomes)
    assert curves == undisturbed
