"""What surrounds a retraining check in this system: the champion's training data, and the run that is
started."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import pyarrow as pa
from zenml import get_step_context, log_metadata
from zenml.client import Client
from zenml.models import ArtifactVersionResponse, PipelineRunResponse

from ops import environment
from ops.alerts import alert
from ops.registries import policy_registry
from ops.tags import PIPELINE_RUN_TAG
from ops.tracking import MLflowSink
from rlhf.errors import TrainingError
from rlhf.feedback.ledger.reference import LedgerRef
from rlhf.feedback.ledger.state import read_state
from rlhf.feedback.settings import DatasetSettings
from rlhf.registry.champion import ChampionRef
from rlhf.retraining.decision import RetrainingDecision, Situation
from rlhf.retraining.evidence import Scorer, new_feedback
from rlhf.retraining.settings import RetrainingSettings
from rlhf.tracking import MetricSink

logger = logging.getLogger(__name__)

TRAINING_PIPELINE = "rlhf_pipeline"
_LATEST_RUNS = 10
_SECONDS_A_DAY = 86_400


def situation_of(
    feedback: LedgerRef, champion: ChampionRef, datasets: DatasetSettings, settings: RetrainingSettings
) -> Situation:
    """Compare the present feedback with what the champion, and the latest completed run, were trained on.

    Views are derived only where the question is not settled without them.
    """
    runs = _completed_runs()
    same = next((run for run in runs if _digest(run) == feedback.state_digest), None)
    known = Situation(sequence=feedback.sequence, trained_already=same.name if same else None)
    if champion.version is None:
        return known
    registered = policy_registry().mlflow.get_model_version("policy", champion.version)
    age = time.time() - registered.creation_timestamp / 1000
    known = Situation(
        known.sequence, champion.version, age / _SECONDS_A_DAY, trained_already=known.trained_already
    )
    if same is not None:
        return known
    run = _run(registered.tags.get(PIPELINE_RUN_TAG))
    before = [_training_split(run, view) for view in ("comparisons", "prompts")] if run else [None, None]
    if before[0] is None or before[1] is None:
        return Situation(known.sequence, known.champion, known.champion_age_days, training_data_gone=True)
    from rlhf.feedback.views import derive

    # agreement is training's to insist on: the check only counts
    views = derive(read_state(feedback), datasets)
    latest = _training_split(runs[0], "comparisons") if runs else None
    new = new_feedback(
        views["comparisons"]["train"].data.table,
        views["prompts"]["train"].data.table,
        champion_comparisons=before[0],
        champion_prompts=before[1],
        other_comparisons=[latest] if latest is not None else [],
        settings=settings,
        score=_proxy(run) if settings.maximum_reward_ks_p is not None else None,
    )
    return Situation(known.sequence, known.champion, known.champion_age_days, new=new)


def publish_decision(sink: MetricSink, decision: RetrainingDecision) -> None:
    """Show the decision on the pipeline run and as tags of the MLflow run."""
    said = {"retraining": "needed" if decision.needed else "not needed", "reason": decision.reason}
    log_metadata(metadata=said, run_id_name_or_prefix=get_step_context().pipeline_run.id)
    logger.info("%s", decision.summary)
    if isinstance(sink, MLflowSink):
        sink.set_tags({"mlflow.note.content": decision.summary, **said})
    if decision.needed:
        alert("training_started", "Retraining", decision.summary)


def train_pinned(feedback: LedgerRef, config: str, overrides: Sequence[str]) -> str:
    """Run the training pipeline to its end on the ledger as it stood at a sequence number.

    In a process of its own: ZenML starts no pipeline from inside a step.

    Returns:
        The run's name.

    Raises:
        TrainingError: it could not be started, or ended badly.
    """
    check = get_step_context().pipeline_run
    name = f"{TRAINING_PIPELINE}-retrained-{datetime.now(UTC):%Y_%m_%d-%H_%M_%S_%f}"
    pinned = [
        *overrides,
        f"feedback.ledger.url={feedback.url}",
        f"feedback.ledger.sequence={feedback.sequence}",
        f"run_name={name}",
    ]
    paths = [str(environment.PROJECT_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    ended = subprocess.run(
        [sys.executable, "-m", "ops.cli", "run", "--keep-stack", config, *pinned],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        check=False,
    )
    found = Client().list_pipeline_runs(name=name).items
    if found:
        log_metadata({"training_run": name}, run_id_name_or_prefix=check.id)
        log_metadata({"started_by": check.name}, run_id_name_or_prefix=found[0].id)
    if ended.returncode or not found:
        outcome = "failed" if found else "did not begin"
        raise TrainingError(
            f"The training run {name} that the retraining check started {outcome}"
            f" (exit status {ended.returncode}); its error is printed above and in the run's logs."
        )
    return name


def _completed_runs() -> list[PipelineRunResponse]:
    """The latest completed training runs, newest first."""
    found = Client().list_pipeline_runs(
        pipeline=TRAINING_PIPELINE, status="completed", sort_by="desc:created", size=_LATEST_RUNS
    )
    return [run for run in found.items if run.pipeline and run.pipeline.name == TRAINING_PIPELINE]


def _run(run_id: str | None) -> PipelineRunResponse | None:
    if run_id is None:
        return None
    try:
        return Client().get_pipeline_run(UUID(run_id))
    except KeyError:
        return None


def _digest(run: PipelineRunResponse) -> str | None:
    artifact = _output(run, "ingest_feedback", "feedback")
    return artifact.content_hash if artifact else None


def _training_split(run: PipelineRunResponse, view: str) -> pa.Table | None:
    """The rows that a run trained on; None where an erasure has emptied the artifact."""
    artifact = _output(run, "prepare_datasets", view)
    store = Client().active_stack.artifact_store
    if artifact is None or not store.exists(f"{artifact.uri.rstrip('/')}/data/index.json"):
        return None
    return artifact.load()["train"].data.table


def _output(run: PipelineRunResponse, step: str, name: str) -> ArtifactVersionResponse | None:
    found = run.steps.get(step)
    outputs = found.outputs.get(name) if found else None
    return outputs[0] if outputs else None


def _proxy(run: PipelineRunResponse | None) -> Scorer | None:
    """The reward model that the champion was trained with."""
    artifact = _output(run, "train_proxy_reward_model", "reward_model") if run else None
    if artifact is None:
        return None
    from rlhf.models.reward_classifiers import RewardModelReward

    return RewardModelReward(artifact.load().path)
