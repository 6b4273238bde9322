"""What surrounds a promotion in this system: the candidate's lineage for the registry, and the end of
tracking."""

import getpass
from collections.abc import Mapping
from pathlib import Path

from zenml import get_step_context, log_metadata
from zenml.client import Client
from zenml.enums import ExecutionStatus
from zenml.models import ArtifactVersionResponse, PipelineRunResponse

from materializers.transfer import is_local
from ops.alerts import alert
from ops.model_cards import lineage_of, policy_card, reward_model_card, write_card
from ops.stage import MLFLOW_RUN_ID
from ops.tags import ARTIFACT_TAG, MLFLOW_RUN_TAG, PIPELINE_RUN_TAG, RUN_NAME_TAG
from ops.tracking import MLflowSink
from rlhf.models.directory import ModelDirectory
from rlhf.registry.model_card import Lineage
from rlhf.registry.promotion import PromotionDecision
from rlhf.registry.store import ROLES, Candidate, Role
from rlhf.registry.transaction import PromotionOutcome
from rlhf.tracking import MetricSink

ROLE_TAG = "rlhf.role"
_NOBODY = "default"  # the user of a ZenML without a server


def candidate_of(
    policy: ModelDirectory,
    artifact: ArtifactVersionResponse,
    decision: PromotionDecision,
    metrics: Mapping[str, float],
    sink: MetricSink,
) -> Candidate:
    """The policy artifact as the registry takes it: where it lies, what made it, its card, and the reward
    models that belong to it. The cards are written beside the models unless this is a dry run, or the
    champion itself."""
    run = get_step_context().pipeline_run
    mlflow_run = sink.opened if isinstance(sink, MLflowSink) else None
    runs = {"ZenML": run.name, **({"MLflow": mlflow_run.info.run_id} if mlflow_run else {})}
    # A champion keeps the card of the decision that made it one.
    writes = decision.mode != "dry_run" and decision.verdict != "already_champion"
    lineage = lineage_of(run, runs)
    card = policy_card(run, policy, decision, metrics, lineage)
    tags = {
        PIPELINE_RUN_TAG: str(run.id),
        RUN_NAME_TAG: run.name,
        **{f"data.{name}": digest for name, digest in lineage.data.items()},
        **_ledger_version(run),
        **({MLFLOW_RUN_TAG: mlflow_run.info.run_id} if mlflow_run else {}),
    }
    if writes:
        write_card(artifact, card)
    return Candidate(
        digest=policy.digest,
        path=_model_path(artifact),
        description=card,
        tags={ARTIFACT_TAG: str(artifact.id), **tags},
        reward_models=_reward_models(run, lineage, tags, write=writes),
        by=_started_by(run),
    )


def publish_verdict(sink: MetricSink, decision: PromotionDecision, outcome: PromotionOutcome) -> None:
    """Show the verdict, and what was done, on the pipeline run and as tags of the MLflow run, and tell
    people."""
    done = {"verdict": decision.verdict, "action": outcome.action}
    log_metadata(
        metadata={**done, "promotion": decision.summary},
        run_id_name_or_prefix=get_step_context().pipeline_run.id,
    )
    if isinstance(sink, MLflowSink):
        sink.set_tags({f"promotion.{name}": value for name, value in done.items()})
    alert("gate_verdict", f"Gate: {outcome.action}", decision.summary)


def close_tracking(sink: MetricSink) -> None:
    """Point from this MLflow run to the runs that hold the curves of cached steps, and end it."""
    if not isinstance(sink, MLflowSink):
        return
    sink.set_tags(cached_curves(get_step_context().pipeline_run))
    sink.finish_on_close()


def cached_curves(run: PipelineRunResponse) -> dict[str, str]:
    """For each step taken from the cache, ``cached.<step>`` → the MLflow run in which it trained."""
    client = Client()
    tags = {}
    for name, step in run.steps.items():
        if step.status != ExecutionStatus.CACHED or step.original_step_run_id is None:
            continue
        original = client.get_run_step(step.original_step_run_id)
        if (mlflow_run := original.run_metadata.get(MLFLOW_RUN_ID)) is not None:
            tags[f"cached.{name}"] = str(mlflow_run)
    return tags


def _reward_models(
    run: PipelineRunResponse, lineage: Lineage, tags: Mapping[str, str], *, write: bool
) -> dict[Role, Candidate]:
    """The reward models of a run that have a part in the policy's fate, by what they are for."""
    found: dict[Role, Candidate] = {}
    for step in run.steps.values():
        role = next((r for r in ROLES if r == step.config.parameters.get("role")), None)
        for artifact in step.outputs.get("reward_model", []):
            if role is None or artifact.content_hash is None:
                continue
            card = reward_model_card(role, artifact, lineage)
            if write:
                write_card(artifact, card)
            found[role] = Candidate(
                digest=artifact.content_hash,
                path=_model_path(artifact),
                description=card,
                tags={ARTIFACT_TAG: str(artifact.id), ROLE_TAG: role, **tags},
            )
    return found


def _model_path(artifact: ArtifactVersionResponse) -> str:
    """The model directory inside an artifact: a resolved path on a local store, otherwise a URI."""
    path = f"{artifact.uri.rstrip('/')}/model"
    return str(Path(path).resolve()) if is_local(Client().active_stack.artifact_store) else path


def _ledger_version(run: PipelineRunResponse) -> dict[str, str]:
    for step in run.steps.values():
        for artifact in step.outputs.get("feedback", []):
            if "sequence" in artifact.run_metadata:
                return {"data.ledger_sequence": str(artifact.run_metadata["sequence"])}
    return {}


def _started_by(run: PipelineRunResponse) -> str:
    user = run.user.name if run.user else _NOBODY
    return getpass.getuser() if user == _NOBODY else user
