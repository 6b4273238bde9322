"""What surrounds a promotion in this system: the candidate's lineage for the registry, and the end of
tracking."""

from collections.abc import Mapping, Sequence

from zenml import get_step_context, log_metadata
from zenml.client import Client
from zenml.enums import ExecutionStatus
from zenml.models import ArtifactVersionResponse, PipelineRunResponse

from materializers.transfer import is_local
from ops.alerts import alert
from ops.code_version import code_version
from ops.registries import ARTIFACT_TAG, RUN_TAG
from ops.stage import MLFLOW_RUN_ID
from ops.tracking import MLflowSink
from rlhf.models.directory import ModelDirectory
from rlhf.registry.model_card import Lineage, model_card
from rlhf.registry.promotion import PromotionDecision, PromotionOutcome
from rlhf.registry.store import Candidate
from rlhf.tracking import MetricSink

_DATA = ("feedback", "demonstrations", "comparisons", "ratings", "prompts")


def candidate_of(
    policy: ModelDirectory,
    artifact: ArtifactVersionResponse,
    decision: PromotionDecision,
    metrics: Mapping[str, float],
    sink: MetricSink,
) -> Candidate:
    """The policy artifact as the registry takes it: where it lies, what made it, and its card."""
    context = get_step_context()
    run = context.pipeline_run
    mlflow_run = sink.opened if isinstance(sink, MLflowSink) else None
    lineage = _lineage(run)
    runs = {"ZenML": run.name, **({"MLflow": mlflow_run.info.run_id} if mlflow_run else {})}
    card = model_card(
        "policy",
        policy.digest,
        Lineage(models=lineage.models, data=lineage.data, code=code_version(), runs=runs),
        metrics,
        decision=decision,
    )
    tags = {
        ARTIFACT_TAG: str(artifact.id),
        "zenml.pipeline_run_id": str(run.id),
        "zenml.run_name": run.name,
        **{f"data.{name}": digest for name, digest in lineage.data.items()},
        **({RUN_TAG: mlflow_run.info.run_id} if mlflow_run else {}),
    }
    store = Client().active_stack.artifact_store
    path = str(policy.path.resolve()) if is_local(store) else f"{artifact.uri.rstrip('/')}/model"
    return Candidate(digest=policy.digest, path=path, description=card, tags=tags)


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
    sink.flush()
    if sink.opened is not None:
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


def _lineage(run: PipelineRunResponse) -> Lineage:
    """Content hashes of the models and datasets that this run's steps put out."""
    models: dict[str, str] = {}
    data: dict[str, str] = {}
    for name, step in run.steps.items():
        for output, versions in step.outputs.items():
            target = data if output in _DATA else models if _is_model(versions) else None
            if target is not None and versions and versions[0].content_hash:
                target[output if target is data else name] = versions[0].content_hash
    return Lineage(models=models, data=data)


def _is_model(versions: Sequence[ArtifactVersionResponse]) -> bool:
    return bool(versions) and versions[0].type.value == "model"
