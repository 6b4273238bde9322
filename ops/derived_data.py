"""Copies of feedback outside the ledger: datasets that runs derived, the pages that show rows, and what was
fetched from remote stores. Erasing a record deletes them."""

import json
import logging
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from zenml.artifact_stores.base_artifact_store import BaseArtifactStore
from zenml.client import Client
from zenml.models import ArtifactVersionResponse

from ops import environment
from ops.lineage import FEEDBACK

logger = logging.getLogger(__name__)

DATASETS = ("demonstrations", "comparisons", "ratings", "prompts", "text")
QUOTING = ("ingest_report", "data_report", "frontier", "evaluation")
"""Artifacts that show some records; later steps and `rlhf runs` read them, so that they are named, not
deleted."""


@dataclass(frozen=True)
class DerivedCopy:
    """One artifact with feedback in it."""

    artifact: str
    version: str
    uri: str
    deletable: bool


def derived_copies(run_ids: Iterable[UUID]) -> list[DerivedCopy]:
    """What runs derived from their feedback and what quotes it, each once."""
    found: dict[str, DerivedCopy] = {}
    for run_id in run_ids:
        for step in Client().get_pipeline_run(run_id).steps.values():
            for output in (output for outputs in step.outputs.values() for output in outputs):
                if output.artifact.name in (FEEDBACK, *DATASETS, *QUOTING):
                    found[output.uri] = _copy(output)
    return sorted(found.values(), key=lambda copy: (not copy.deletable, copy.artifact, copy.version))


def _copy(output: ArtifactVersionResponse) -> DerivedCopy:
    name = output.artifact.name
    return DerivedCopy(name, str(output.version), output.uri, name not in QUOTING)


def delete_copies(copies: Iterable[DerivedCopy]) -> int:
    """Delete the files of datasets with their local caches, and the pages that show rows.

    Artifacts stay listed in ZenML without their files. No later run takes them from the cache: without the
    record, the feedback before them is another one.

    Returns:
        How many artifacts were emptied.
    """
    store = Client().active_stack.artifact_store
    emptied = 0
    for copy in copies:
        if not copy.deletable or not store.exists(copy.uri):
            continue
        if copy.artifact == FEEDBACK:
            page = f"{copy.uri.rstrip('/')}/rows.html"
            if not store.exists(page):
                continue
            store.remove(page)
        else:
            _forget_cached(store, copy.uri)
            store.rmtree(copy.uri)
        emptied += 1
    return emptied


def _forget_cached(store: BaseArtifactStore, uri: str) -> None:
    index = f"{uri.rstrip('/')}/data/index.json"
    if store.exists(index):
        with store.open(index, "r") as stream:
            digest = json.loads(stream.read())["digest"]
        shutil.rmtree(environment.home() / "cache" / "datasets" / digest, ignore_errors=True)
