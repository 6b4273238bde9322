"""Copies of feedback outside the ledger: datasets that runs derived, reports that quote records, what was
fetched from remote stores, and MLflow's copies. Erasing a record deletes them."""

import json
import logging
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from uuid import UUID

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient
from zenml.artifact_stores.base_artifact_store import BaseArtifactStore
from zenml.client import Client
from zenml.models import ArtifactVersionResponse, PipelineRunResponse

from ops import environment
from ops.lineage import FEEDBACK
from ops.stage import MLFLOW_RUN_ID, tracking_uri
from ops.tracking import TRACKER_ERRORS
from rlhf.report import ReportBuilder

logger = logging.getLogger(__name__)

DATASETS = ("demonstrations", "comparisons", "ratings", "prompts", "text", "frontier")
REPORTS = ("ingest_report", "data_report", "evaluation")
_NAMING = ("samples", "annotators")
"""Parts of the reports' figures that quote records or name annotators."""
_TRACKED = ("reports/ingest.html", "reports/data.html", "reports/evaluation.html")
_TREATMENT = {
    "dataset": "files deleted",
    "preview": "page of rows deleted",
    "report": "figures kept, texts and names removed",
    "tracked": "file deleted",
    "spool": "unsent texts deleted",
}


@dataclass(frozen=True)
class DerivedCopy:
    """One place that holds feedback or may quote it."""

    kind: Literal["dataset", "preview", "report", "tracked", "spool"]
    name: str
    where: str
    """URI of the artifact, the MLflow run's artifact URI, or a file."""

    @property
    def treatment(self) -> str:
        """What deleting does to it, in words."""
        return _TREATMENT[self.kind]


def derived_copies(run_ids: Iterable[UUID]) -> list[DerivedCopy]:
    """What runs derived from their feedback and what quotes it, each once.

    Raises:
        MlflowException, OSError: the tracking server cannot be asked.
    """
    found: dict[tuple[str, str], DerivedCopy] = {}
    for run_id in run_ids:
        run = Client().get_pipeline_run(run_id)
        artifacts = (
            copy
            for step in run.steps.values()
            for outputs in step.outputs.values()
            for output in outputs
            if (copy := _copy(output)) is not None
        )
        for copy in (*artifacts, *_tracked(run)):
            found[copy.where, copy.name] = copy
    return sorted(found.values(), key=lambda copy: (copy.kind, copy.name, copy.where))


def _copy(output: ArtifactVersionResponse) -> DerivedCopy | None:
    name = f"{output.artifact.name} {output.version}"
    if output.artifact.name == FEEDBACK:
        return DerivedCopy("preview", name, output.uri)
    if output.artifact.name in DATASETS:
        return DerivedCopy("dataset", name, output.uri)
    return DerivedCopy("report", name, output.uri) if output.artifact.name in REPORTS else None


def _tracked(run: PipelineRunResponse) -> list[DerivedCopy]:
    """MLflow's copies of a run's reports, and what could not be sent there yet."""
    found = []
    spool = environment.home() / "spool" / f"{run.id}.jsonl"
    if spool.exists():
        found.append(DerivedCopy("spool", run.name, str(spool)))
    uri, mlflow_run = tracking_uri(), run.run_metadata.get(MLFLOW_RUN_ID)
    if uri is not None and mlflow_run is not None:
        client = MlflowClient(tracking_uri=uri)
        place = client.get_run(str(mlflow_run)).info.artifact_uri
        there = {file.path for file in client.list_artifacts(str(mlflow_run), "reports")}
        found += [DerivedCopy("tracked", name, place) for name in _TRACKED if name in there]
    return found


def delete_copies(copies: Iterable[DerivedCopy]) -> list[tuple[DerivedCopy, str]]:
    """Delete what :func:`derived_copies` found, in a manner that lets finished runs still be listed: reports
    keep their figures, and artifacts stay in ZenML without their files.

    Returns:
        Copies that could not be deleted, each with the reason.
    """
    store = Client().active_stack.artifact_store
    left = []
    for copy in copies:
        try:
            _delete(store, copy)
        except FileNotFoundError:  # deleted by an earlier call
            continue
        except (*TRACKER_ERRORS, NotImplementedError) as error:
            left.append((copy, next(iter(str(error).splitlines()), type(error).__name__)))
    return left


def _delete(store: BaseArtifactStore, copy: DerivedCopy) -> None:
    uri = copy.where.rstrip("/")
    match copy.kind:
        case "dataset":
            _forget_cached(store, uri)
            if store.exists(uri):
                store.rmtree(uri)
        case "preview":
            if store.exists(f"{uri}/rows.html"):
                store.remove(f"{uri}/rows.html")
        case "report":
            _keep_figures(store, uri)
        case "tracked":
            get_artifact_repository(copy.where, tracking_uri=tracking_uri()).delete_artifacts(copy.name)
        case "spool":
            _drop_texts(Path(copy.where))


def expire_cached_steps(run_ids: Iterable[UUID]) -> None:
    """See that no later run takes a step's outputs from the cache whose files were deleted."""
    emptied = {*DATASETS, *REPORTS}
    for run_id in run_ids:
        for step in Client().get_pipeline_run(run_id).steps.values():
            if emptied & step.outputs.keys():
                Client().update_step_run(step.id, cache_expires_at=datetime.now(UTC))


def forget_hub_datasets() -> None:
    """Delete what was read of hub datasets; a later ingest reads them anew. A folder that the user has chosen
    for it may serve others, and is left alone."""
    if os.environ.get("HF_DATASETS_CACHE") == str(environment.hub_datasets()):
        shutil.rmtree(environment.hub_datasets(), ignore_errors=True)


def _keep_figures(store: BaseArtifactStore, uri: str) -> None:
    with store.open(f"{uri}/report.json", "r") as stream:
        stored = json.loads(stream.read())
    stored["data"] = {name: value for name, value in stored["data"].items() if name not in _NAMING}
    page = ReportBuilder(stored["title"])
    page.note("This page was removed when feedback that it may have quoted was erased. Its figures are kept.")
    for name, content in (
        ("report.json", json.dumps(stored, ensure_ascii=False, sort_keys=True)),
        *((page_name, page.build().html) for page_name in ("page.html", "report.html")),
    ):
        with store.open(f"{uri}/{name}", "w") as stream:
            stream.write(content)


def _drop_texts(spool: Path) -> None:
    entries = [line for line in spool.read_text().splitlines() if json.loads(line)[0] != "text"]
    spool.write_text("".join(f"{entry}\n" for entry in entries))


def _forget_cached(store: BaseArtifactStore, uri: str) -> None:
    index = f"{uri}/data/index.json"
    if store.exists(index):
        with store.open(index, "r") as stream:
            digest = json.loads(stream.read())["digest"]
        shutil.rmtree(environment.home() / "cache" / "datasets" / digest, ignore_errors=True)
