"""Which runs saw a record, and which registered models came out of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args
from uuid import UUID

from mlflow.exceptions import MlflowException
from zenml.client import Client
from zenml.models import ArtifactVersionResponse
from zenml.utils.pagination_utils import depaginate

from ops.registries import policy_registry
from ops.tags import ARTIFACT_TAG
from rlhf.errors import ConfigError
from rlhf.feedback.ledger.table import canonical_url
from rlhf.registry.store import POLICY, Alias, place

FEEDBACK = "feedback"
_MODELS = ("base_model", "sft_policy", "reward_model", "policy")

Span = tuple[str, int, int | None]
"""Source key, first sequence and first sequence no more of a version of a row."""


@dataclass(frozen=True)
class SeenBy:
    """A pipeline run whose feedback held a record."""

    run: UUID
    name: str
    started: str
    """UTC, to the minute."""
    status: str
    sequence: int
    models: tuple[str, ...]
    """Models that this run trained; those it took from the cache are an earlier run's."""
    versions: tuple[str, ...]
    """Registered versions of the policy that this run trained, with their aliases."""


def runs_that_saw(url: str, spans: Iterable[Span]) -> list[SeenBy]:
    """Runs on a ledger at whose sequence number one of the versions counted, newest first."""
    spans = list(spans)
    registered = _registered_by_artifact()
    found = []
    for artifact in _feedback_artifacts(url):
        sequence = int(artifact.run_metadata["sequence"])
        keys = artifact.run_metadata["source_keys"]
        if artifact.producer_pipeline_run_id is None or not any(
            key in keys and first <= sequence and (end is None or sequence < end) for key, first, end in spans
        ):
            continue
        run = Client().get_pipeline_run(artifact.producer_pipeline_run_id)
        made = [
            output
            for step in run.steps.values()
            for outputs in step.outputs.values()
            for output in outputs
            if output.artifact.name in _MODELS and output.producer_pipeline_run_id == run.id
        ]
        found.append(
            SeenBy(
                run.id,
                run.name,
                f"{run.start_time:%Y-%m-%d %H:%M}" if run.start_time else "",
                run.status.value,
                sequence,
                tuple(sorted({output.artifact.name for output in made})),
                tuple(registered[str(output.id)] for output in made if str(output.id) in registered),
            )
        )
    return found


def _feedback_artifacts(url: str) -> list[ArtifactVersionResponse]:
    """References to a ledger, newest first."""
    listed = depaginate(
        Client().list_artifact_versions, artifact=FEEDBACK, sort_by="desc:created", hydrate=True
    )
    return [
        artifact
        for artifact in listed
        # ZenML also finds artifacts whose name only begins so.
        if artifact.artifact.name == FEEDBACK and artifact.run_metadata.get("url") == canonical_url(url)
    ]


def _registered_by_artifact() -> dict[str, str]:
    """Name and aliases of each registered policy, by the id of its artifact."""
    try:
        registry = policy_registry()
    except ConfigError:  # a stack without a registry has no champions
        return {}
    try:
        versions = registry.versions(POLICY)
        places = registry.aliases()
    except MlflowException:
        return {}
    aliases: dict[str, list[str]] = {}
    for alias in get_args(Alias):
        if (holder := places.get(place(POLICY, alias))) is not None:
            aliases.setdefault(holder, []).append(alias)
    return {
        version.tags[ARTIFACT_TAG]: " ".join(
            [f"{POLICY} v{version.version}", *aliases.get(version.version, [])]
        )
        for version in versions
        if ARTIFACT_TAG in version.tags
    }
