"""Retention: finds what may go in ZenML and its artifact stores, and deletes it through ZenML.

A run's record goes before its artifacts do: while ZenML has it, a later run could take a step from the cache
whose output is gone.
"""

import logging
from collections.abc import Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path, PurePosixPath

from zenml.artifact_stores.base_artifact_store import BaseArtifactStore
from zenml.client import Client
from zenml.enums import StackComponentType
from zenml.models import ArtifactVersionResponse, PipelineRunResponse
from zenml.stack import StackComponent
from zenml.utils.pagination_utils import depaginate

from materializers.transfer import is_local
from ops.approval import open_requests
from ops.registries import MLflowRegistry, policy_registry
from ops.tags import APPROVAL_RUN_TAG, ARTIFACT_TAG, PIPELINE_RUN_TAG, VERDICT_RUN_TAG
from rlhf.errors import ConfigError, PromotionError
from rlhf.registry.retention import ArtifactRecord, Plan, RunRecord, plan
from rlhf.registry.store import MODELS, RegisteredVersion
from rlhf.registry.transaction import mark_pruned

logger = logging.getLogger(__name__)

_PAGE = 500
_RUN_TAGS = (PIPELINE_RUN_TAG, VERDICT_RUN_TAG, APPROVAL_RUN_TAG)


@dataclass(frozen=True)
class PrunableArtifact:
    """A version of an artifact that may go, with what its files take."""

    id: str
    name: str
    uri: str
    store: str | None
    """Id of the artifact store that holds it."""
    size_bytes: int


@dataclass(frozen=True)
class Prunable:
    """What may go."""

    runs: tuple[RunRecord, ...]
    artifacts: tuple[PrunableArtifact, ...]
    outside: tuple[str, ...]
    """Places of artifacts that are not inside the artifact store that they name: nothing is deleted there."""


def prunable(older_than_days: float) -> Prunable:
    """What nothing worth keeping leads to, see :func:`rlhf.registry.retention.plan`.

    Args:
        older_than_days: up to this age, runs are kept with all that they used.

    Raises:
        PromotionError: a move in the registry is open: what it makes champion is not known yet.
    """
    found = _plan(older_than_days)
    kept = {PurePosixPath(artifact.uri) for artifact in found.kept_artifacts}
    above_kept = {folder for place in kept for folder in place.parents}
    artifacts, outside = [], []
    for artifact in found.artifacts:
        store = _store_of(artifact.store)
        if store is None or not _inside(store, artifact.uri):
            outside.append(artifact.uri)
        elif not _touches(PurePosixPath(artifact.uri), kept, above_kept):
            size = _size(store, artifact.uri)
            artifacts.append(PrunableArtifact(artifact.id, artifact.name, artifact.uri, artifact.store, size))
    return Prunable(found.runs, tuple(artifacts), tuple(outside))


def delete(found: Prunable, *, by: str) -> int:
    """Delete what was found: first the mark in the registry, then the runs' records, then files and records
    of the artifacts. What a run has taken up meanwhile stays.

    Returns:
        Bytes of the files that are gone.

    Raises:
        PromotionError: one of the versions was made champion, previous or candidate meanwhile.
    """
    client = Client()
    registry = _registry()
    if registry is not None:
        going = {artifact.id for artifact in found.artifacts}
        registered = (version for model in MODELS for version in registry.versions(model))
        mark_pruned(registry, {v.path for v in registered if v.tags.get(ARTIFACT_TAG) in going}, by=by)
    for run in found.runs:
        client.delete_pipeline_run(run.id)
    freed = 0
    for artifact in found.artifacts:
        unused = client.list_artifact_versions(id=artifact.id, only_unused=True, size=1)
        if not unused.items:
            logger.warning("A run has taken %s up meanwhile: it stays.", artifact.uri)
            continue
        store = _store_of(artifact.store)
        if store is not None and _inside(store, artifact.uri) and store.exists(artifact.uri):
            store.rmtree(artifact.uri)
            freed += artifact.size_bytes
        client.delete_artifact_version(unused.items[0].id)
    return freed


def _plan(older_than_days: float) -> Plan:
    registry = _registry()
    digests, run_ids = set(), set()
    # The run of the verdict too: its policy may be another run's, taken from the cache.
    for request in open_requests():
        digests |= {digest for digest in (request.candidate, request.champion) if digest}
        run_ids.add(request.run_id)
    if registry is not None:
        if (journal := registry.journal()) is not None:
            raise PromotionError(
                f"A {journal.action} by {journal.by} on {journal.place} is open; wait for it, or end it with "
                "`rlhf registry repair`."
            )
        for version in _held(registry):
            digests.add(version.digest)
            run_ids |= {version.tags[name] for name in _RUN_TAGS if name in version.tags}
    client = Client()
    runs = depaginate(client.list_pipeline_runs, size=_PAGE, hydrate=True)
    versions = depaginate(client.list_artifact_versions, size=_PAGE, hydrate=True)
    return plan(
        [_run_record(run) for run in runs],
        [_artifact_record(version) for version in versions],
        digests=digests,
        run_ids=run_ids,
        older_than=timedelta(days=older_than_days),
        now=datetime.now(UTC),
    )


def _held(registry: MLflowRegistry) -> list[RegisteredVersion]:
    """Versions that an alias names."""
    held = registry.aliases().items()
    return [
        version
        for model in MODELS
        for version in registry.versions(model)
        if any(where.startswith(f"{model}@") and number == version.version for where, number in held)
    ]


def _run_record(run: PipelineRunResponse) -> RunRecord:
    touched = (
        str(artifact.id)
        for step in run.steps.values()
        for group in (*step.inputs.values(), *step.outputs.values())
        for artifact in group
    )
    started = run.start_time or run.created
    return RunRecord(str(run.id), run.name, _utc(started), run.status.is_finished, frozenset(touched))


def _artifact_record(version: ArtifactVersionResponse) -> ArtifactRecord:
    producer = version.producer_pipeline_run_id
    return ArtifactRecord(
        str(version.id),
        version.artifact.name,
        version.uri,
        version.content_hash,
        _utc(version.created),
        str(producer) if producer else None,
        str(version.artifact_store_id) if version.artifact_store_id else None,
    )


def _utc(time: datetime) -> datetime:
    """ZenML's times are UTC without saying so."""
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _registry() -> MLflowRegistry | None:
    try:
        return policy_registry()
    except ConfigError:  # a stack without a registry has no champions
        return None


@cache
def _store_of(component: str | None) -> BaseArtifactStore | None:
    """The artifact store of that id; ``None`` where it is not registered any more."""
    if component is None:
        return None
    try:
        model = Client().get_stack_component(StackComponentType.ARTIFACT_STORE, component)
    except KeyError:
        return None
    store = StackComponent.from_model(model)
    return store if isinstance(store, BaseArtifactStore) else None


def _inside(store: BaseArtifactStore, uri: str) -> bool:
    """Whether a place is below the root of the store: not the root itself, and not through a link or `..`."""
    if is_local(store):
        root, place = Path(store.path).resolve(), Path(uri).resolve()
        return place != root and place.is_relative_to(root)
    root_parts, parts = PurePosixPath(store.path).parts, PurePosixPath(uri).parts
    return len(parts) > len(root_parts) and parts[: len(root_parts)] == root_parts and ".." not in parts


def _touches(place: PurePosixPath, kept: Set[PurePosixPath], above_kept: Set[PurePosixPath]) -> bool:
    """Whether deleting a place would delete something kept: the same place, one inside it or around it."""
    return place in kept or place in above_kept or not kept.isdisjoint(place.parents)


def _size(store: BaseArtifactStore, uri: str) -> int:
    """Bytes of all files of an artifact."""
    if is_local(store):
        return sum(file.stat().st_size for file in Path(uri).rglob("*") if file.is_file())
    if not store.exists(uri):
        return 0
    files = (f"{_text(folder)}/{_text(name)}" for folder, _, names in store.walk(uri) for name in names)
    return sum(store.size(file) or 0 for file in files)


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name
