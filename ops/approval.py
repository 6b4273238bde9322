"""Verdicts that wait for a person: which are open, how one is answered, and what becomes of those that nobody
answered.

A request is open from its verdict on; the verdict's artifact says so, and says how it was closed. The waiting
itself is a paused run of ``promotion_pipeline``, which no process keeps alive; where there is none yet, or
its process died, one is started when it is needed."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from uuid import UUID

from filelock import FileLock
from zenml.client import Client
from zenml.enums import (
    ExecutionStatus,
    MetadataResourceTypes,
    RunWaitConditionResolution,
    RunWaitConditionStatus,
)
from zenml.models import (
    ArtifactVersionResponse,
    PipelineRunResponse,
    PipelineRunUpdate,
    RunMetadataResource,
    RunWaitConditionResponse,
)
from zenml.stack import Stack
from zenml.utils.pagination_utils import depaginate

from ops import environment
from ops.gate import find_run, verdict_artifact, verdict_record
from ops.registries import policy_registry
from ops.stage import MLFLOW_RUN_ID
from rlhf.errors import PromotionError
from rlhf.registry.approval import ApprovalAnswer, ApprovalOutcome
from rlhf.registry.gate_report import decision_of, expiry_of
from rlhf.registry.store import POLICY, by_digest

logger = logging.getLogger(__name__)

CLOSED = "approval"
"""Metadata of a verdict's artifact that waited: what became of it. Absent while it is open."""
WHY = "approval_reason"


@dataclass(frozen=True)
class OpenRequest:
    """A verdict that waits for a person."""

    artifact: UUID
    """The verdict's artifact version."""
    run: str
    """Name of the run that came to the verdict."""
    run_id: str
    candidate: str
    """Digest of the candidate."""
    champion: str | None
    """Digest of the champion that it was judged against."""
    expires_at: datetime


def open_requests() -> list[OpenRequest]:
    """Every verdict that waits for a person, expired ones included until they are closed; newest first."""
    client = Client()
    found = []
    listed = depaginate(
        client.list_artifact_versions, artifact="promotion", sort_by="desc:created", hydrate=True
    )
    for artifact in listed:
        metadata = artifact.run_metadata
        # ZenML also finds artifacts whose name only begins so.
        if artifact.artifact.name != "promotion" or "expires_at" not in metadata or CLOSED in metadata:
            continue
        if artifact.producer_pipeline_run_id is None:
            continue
        run = client.get_pipeline_run(artifact.producer_pipeline_run_id)
        record = verdict_record(run)
        found.append(
            OpenRequest(
                artifact=artifact.id,
                run=run.name,
                run_id=str(run.id),
                candidate=str(record["candidate_digest"]),
                champion=record["inputs"]["champion"],
                expires_at=expiry_of(record),
            )
        )
    return found


def close_expired(now: datetime | None = None) -> list[OpenRequest]:
    """Close the requests whose time is over: the answer is no. Every run does so when it starts.

    Returns:
        The requests that were closed.
    """
    now = now or datetime.now(UTC)
    closed = []
    for request in open_requests():
        if request.expires_at >= now:
            continue
        with _lock():  # and perhaps after an answer that came in time and was being carried out
            if CLOSED in Client().get_artifact_version(request.artifact).run_metadata:
                continue
            _expire(request)
        closed.append(request)
    return closed


def request_approval(run: PipelineRunResponse) -> PipelineRunResponse | None:
    """Start the waiting run of a verdict that awaits approval, where there is none; ``None`` if it awaits
    nobody."""
    artifact = verdict_artifact(run)
    if "expires_at" not in artifact.run_metadata or CLOSED in artifact.run_metadata:
        return None
    with _lock():
        return _waiting_run(run, artifact)[0]


def answer(name_or_id: str, given: ApprovalAnswer) -> ApprovalOutcome:
    """Answer the open request of a run, and carry the answer out.

    An answer that was given before, and whose process died before it was carried out, is carried out instead.

    Raises:
        PromotionError: no such run, nothing to answer, answered already, or too late.
    """
    run = find_run(name_or_id)
    record = verdict_record(run)
    artifact = verdict_artifact(run)
    if not decision_of(record).awaits_approval:
        raise PromotionError(
            f"The verdict of {run.name} waits for nobody: {record['summary']} (promotion.mode is "
            f"{record['mode']})."
        )
    with _lock():
        artifact = Client().get_artifact_version(artifact.id)
        if closed := artifact.run_metadata.get(CLOSED):
            raise PromotionError(
                f"The request of {run.name} is closed ({closed}): {artifact.run_metadata.get(WHY, '')}"
            )
        expires_at = expiry_of(record)
        if expires_at < datetime.now(UTC):
            _expire(next(r for r in open_requests() if r.artifact == artifact.id))
            raise PromotionError(
                f"The request of {run.name} expired on {expires_at:%Y-%m-%d %H:%M} UTC, so the answer is no; "
                "run the pipeline again for a fresh verdict."
            )
        waiting, condition = _waiting_run(run, artifact)
        if condition.status == RunWaitConditionStatus.PENDING:
            Client().resolve_run_wait_condition(condition.id, result=given.model_dump(mode="json"))
        _resume(waiting)
        closed = Client().get_artifact_version(artifact.id).run_metadata
    if CLOSED not in closed:
        raise PromotionError(
            f"The answer could not be carried out: see the run {waiting.name}; when the cause is mended, "
            "answer again."
        )
    return ApprovalOutcome.model_validate({"action": closed[CLOSED], "reason": closed[WHY]})


def answered_at(run: PipelineRunResponse) -> datetime:
    """When the wait condition of a run of ``promotion_pipeline`` was resolved, UTC."""
    condition = _condition(run.id)
    if condition is None or condition.resolved_at is None:
        raise PromotionError(f"The run {run.name} was not answered.")
    return condition.resolved_at.replace(tzinfo=UTC)


def publish_outcome(verdict: ArtifactVersionResponse, outcome: ApprovalOutcome, summary: str) -> None:
    """Say what came of a request on the run that made it, in ZenML and MLflow, and close it."""
    client = Client()
    done = {CLOSED: outcome.action, WHY: outcome.reason}
    if verdict.producer_pipeline_run_id is not None:
        run = client.get_pipeline_run(verdict.producer_pipeline_run_id)
        action = "promoted" if outcome.action == "approved" else outcome.action
        client.create_run_metadata(
            {"promotion": summary, "action": action, **done},
            [RunMetadataResource(id=run.id, type=MetadataResourceTypes.PIPELINE_RUN)],
        )
        if (mlflow_run := run.run_metadata.get(MLFLOW_RUN_ID)) is not None:
            policy_registry().mlflow.set_tag(str(mlflow_run), "promotion.action", action)
    # Last: it is what closes the request.
    client.create_run_metadata(
        dict(done), [RunMetadataResource(id=verdict.id, type=MetadataResourceTypes.ARTIFACT_VERSION)]
    )


@contextmanager
def _lock() -> Iterator[None]:
    """Exclusive among the processes of this machine: one answer is carried out at a time."""
    with FileLock(environment.home() / "approval.lock"):
        yield


def _waiting_run(
    run: PipelineRunResponse, verdict: ArtifactVersionResponse
) -> tuple[PipelineRunResponse, RunWaitConditionResponse]:
    """The paused run that waits for an answer to a verdict, or has one that was not carried out. Call it with
    the lock held: a run that neither waits nor is finished is a dead process's then."""
    client = Client()
    for attempt in count(1):
        name = f"approval-{verdict.id}-{attempt}"
        found = client.list_pipeline_runs(name=f"equals:{name}", hydrate=True).items
        waiting = found[0] if found else _start(name, run, verdict)
        condition = _condition(waiting.id)
        if condition is not None and waiting.status == ExecutionStatus.PAUSED:
            return waiting, condition
        if not found:
            raise PromotionError(
                f"The run {name} did not wait for an answer but ended as {waiting.status.value}; see its log."
            )
    raise AssertionError("count() does not end")


def _start(name: str, run: PipelineRunResponse, verdict: ArtifactVersionResponse) -> PipelineRunResponse:
    from pipelines.promotion_pipeline import promotion_pipeline

    record = verdict_record(run)
    question = (
        f"{record['summary']} Run: {run.name}. Promote it? An answer counts until "
        f"{expiry_of(record):%Y-%m-%d %H:%M} UTC."
    )
    with _active_stack(run.stack.id if run.stack else None):
        promotion_pipeline.with_options(run_name=name)(verdict=str(verdict.id), question=question)
    [started] = Client().list_pipeline_runs(name=f"equals:{name}", hydrate=True).items
    return started


def _active_stack(stack: UUID | None) -> AbstractContextManager[Stack]:
    from zenml.cli.utils import temporary_active_stack  # loads ZenML's whole command line

    return temporary_active_stack(stack)


def _condition(run: UUID) -> RunWaitConditionResponse | None:
    found = Client().list_run_wait_conditions(pipeline_run=run, name="equals:approval", hydrate=True).items
    return found[0] if found else None


def _resume(run: PipelineRunResponse) -> None:
    """What `zenml pipeline runs resume` does."""
    client = Client()
    snapshot = run.snapshot
    if snapshot is None or snapshot.stack is None:
        raise PromotionError(
            f"The run {run.name} cannot be resumed: its stack is gone; run the pipeline again."
        )
    client.zen_store.update_run(
        run_id=run.id,
        run_update=PipelineRunUpdate(status=ExecutionStatus.RESUMING, status_reason="Answered."),
    )
    with _active_stack(snapshot.stack.id) as stack:
        stack.orchestrator.resume_run(snapshot=snapshot, run=client.get_pipeline_run(run.id), stack=stack)


def _expire(request: OpenRequest) -> None:
    client = Client()
    reason = f"Nobody answered until {request.expires_at:%Y-%m-%d %H:%M} UTC."
    registry = policy_registry()
    version = by_digest(registry, POLICY, request.candidate)
    if version is not None and version != registry.champion():  # whom another answer let pass
        registry.set_tags(
            POLICY, version.version, {"promotion.approved": "false", "promotion.approval_reason": reason}
        )
    for attempt in count(1):
        name = f"approval-{request.artifact}-{attempt}"
        found = client.list_pipeline_runs(name=f"equals:{name}").items
        if not found:
            break
        condition = _condition(found[0].id)
        if condition is not None and condition.status == RunWaitConditionStatus.PENDING:
            client.resolve_run_wait_condition(condition.id, resolution=RunWaitConditionResolution.ABORT)
    outcome = ApprovalOutcome(action="expired", reason=reason)
    publish_outcome(client.get_artifact_version(request.artifact), outcome, reason)
    logger.warning("The approval that the run %s asked for has expired; the champion stays.", request.run)
