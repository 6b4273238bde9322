import json
from pathlib import Path

import pytest
from zenml.artifact_stores.base_artifact_store import BaseArtifactStore
from zenml.client import Client

from materializers.report import ReportMaterializer
from ops.derived_data import DerivedCopy, delete_copies
from rlhf.report import Report


@pytest.fixture
def store() -> BaseArtifactStore:
    return Client().active_stack.artifact_store


def test_a_report_keeps_its_figures_and_loses_its_texts_and_names(
    store: BaseArtifactStore, request: pytest.FixtureRequest
) -> None:
    uri = f"{store.path}/{request.node.name}"
    store.makedirs(uri)
    materializer = ReportMaterializer(uri, store)
    quoting = {"metrics": {"eval/kl": 1.5}, "samples": ["secret"], "annotators": [{"name": "secret"}]}
    report = Report("Evaluation", quoting, "<p>secret</p>")
    materializer.save(report)
    materializer.save_visualizations(report)
    copy = DerivedCopy("report", "evaluation 1", uri)
    assert delete_copies([copy]) == delete_copies([copy]) == []
    assert dict(materializer.load(Report).data) == {"metrics": {"eval/kl": 1.5}}
    assert not [file for file in Path(uri).iterdir() if b"secret" in file.read_bytes()]


def test_texts_that_still_wait_for_mlflow_are_dropped_and_figures_are_not(tmp_path: Path) -> None:
    spool = tmp_path / "run.jsonl"
    metric = json.dumps(["metric", "loss", 0.5, 0, 1])
    spool.write_text(f"{metric}\n{json.dumps(['text', 'secret', 'reports/data.html'])}\n")
    assert delete_copies([DerivedCopy("spool", "run", str(spool))]) == []
    assert spool.read_text().splitlines() == [metric]


def test_what_cannot_be_deleted_is_named_with_the_reason() -> None:
    copy = DerivedCopy("tracked", "reports/data.html", "mlflow-artifacts:/0/abc")
    [(left, reason)] = delete_copies([copy])
    assert left == copy
    assert reason


def test_what_is_gone_already_is_passed_over(store: BaseArtifactStore) -> None:
    gone = f"{store.path}/nowhere"
    assert delete_copies([DerivedCopy("dataset", "prompts 1", gone), DerivedCopy("report", "x", gone)]) == []
