"""Which runs and artifacts may go: those that nothing worth keeping leads back to. It deletes nothing."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

ABANDONED_AFTER = timedelta(days=30)
"""A run that has not ended by then was killed: nobody could tell its record so."""


@dataclass(frozen=True)
class RunRecord:
    """A pipeline run."""

    id: str
    name: str
    started: datetime
    ended: bool
    artifacts: frozenset[str]
    """Ids of all that its steps read or put out, also when they were taken from the cache."""


@dataclass(frozen=True)
class ArtifactRecord:
    """A version of an artifact."""

    id: str
    name: str
    uri: str
    digest: str | None
    created: datetime
    producer: str | None
    """Id of the run whose step made it."""
    store: str | None = None
    """Id of the artifact store that holds it."""


@dataclass(frozen=True)
class Plan:
    """What may go."""

    runs: tuple[RunRecord, ...]
    artifacts: tuple[ArtifactRecord, ...]
    kept_artifacts: tuple[ArtifactRecord, ...] = field(repr=False)


def plan(
    runs: Iterable[RunRecord],
    artifacts: Iterable[ArtifactRecord],
    *,
    digests: Collection[str],
    run_ids: Collection[str],
    older_than: timedelta,
    now: datetime,
) -> Plan:
    """What is neither young nor reachable.

    From a run one reaches all that its steps read and put out, and from an artifact the run that made it, so
    that whoever keeps a model keeps its lineage down to the feedback, and the evaluation that speaks for it.

    Args:
        digests: content to keep, such as a champion's.
        run_ids: runs to keep, such as those that registered a champion.
        older_than: runs and artifacts of at most this age are kept, with all that they reach.
    """
    all_runs = {run.id: run for run in runs}
    all_artifacts = {artifact.id: artifact for artifact in artifacts}
    kept_runs: set[str] = set()
    kept_artifacts: set[str] = set()
    open_runs = [run.id for run in all_runs.values() if run.id in run_ids or _young(run, older_than, now)]
    open_artifacts = [
        a.id for a in all_artifacts.values() if a.digest in digests or now - a.created <= older_than
    ]
    while open_runs or open_artifacts:
        if open_runs:
            run = all_runs.get(open_runs.pop())
            if run is not None and run.id not in kept_runs:
                kept_runs.add(run.id)
                open_artifacts += run.artifacts
            continue
        artifact = all_artifacts.get(open_artifacts.pop())
        if artifact is not None and artifact.id not in kept_artifacts:
            kept_artifacts.add(artifact.id)
            open_runs += [artifact.producer] if artifact.producer else []
    return Plan(
        tuple(run for run in all_runs.values() if run.id not in kept_runs),
        tuple(a for a in all_artifacts.values() if a.id not in kept_artifacts),
        tuple(a for a in all_artifacts.values() if a.id in kept_artifacts),
    )


def _young(run: RunRecord, older_than: timedelta, now: datetime) -> bool:
    age = now - run.started
    return age <= older_than or (not run.ended and age <= ABANDONED_AFTER)
