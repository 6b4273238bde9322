"""Sentences about what runs pass on of the ledger, proved on real ZenML runs."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from zenml import pipeline
from zenml.client import Client
from zenml.models import PipelineRunResponse

from ops import environment
from ops.cli import main
from ops.ledger import default_url
from ops.stack import ensure_local_stack
from rlhf.feedback.ledger.reference import LedgerRef
from rlhf.feedback.settings import DatasetSettings, FeedbackSettings
from rlhf.report import Report
from steps.ingest_feedback import ingest_feedback
from steps.prepare_datasets import prepare_datasets
from tests.rlhf.feedback.ledger.conftest import judgement


@pipeline(name="feedback_only")
def feedback_only(feedback: FeedbackSettings, datasets: DatasetSettings) -> None:
    """The first two steps of the whole pipeline."""
    rows, _ = ingest_feedback(settings=feedback)
    prepare_datasets(feedback=rows, settings=datasets)


Prepare = Callable[..., PipelineRunResponse]


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    return str(tmp_path / "ledger")


@pytest.fixture
def prepare(tmp_path: Path, ledger: str) -> Prepare:
    """Run the two steps on that many judgements, of records that are called ``<name>-<number>``."""
    ensure_local_stack()
    file = tmp_path / "votes.jsonl"
    datasets = DatasetSettings(near_duplicate_threshold=None, test_fraction=0.1, dev_fraction=0.1)

    def run(rows: int, name: str = "record") -> PipelineRunResponse:
        file.write_text("\n".join(json.dumps(judgement(f"{name}-{n:03d}")) for n in range(rows)))
        settings = FeedbackSettings.model_validate(
            {"sources": [{"type": "file", "path": str(file)}], "ledger": {"url": ledger}}
        )
        response = feedback_only(feedback=settings, datasets=datasets)
        assert response is not None
        return Client().get_pipeline_run(response.id)

    return run


def _records(run: PipelineRunResponse) -> set[str]:
    views = run.steps["prepare_datasets"].outputs["comparisons"][0].load()
    return {record for split in views.values() for record in split["record_id"]}


def _said(*arguments: str) -> str:
    done = CliRunner().invoke(main, ["feedback", *arguments], env={"COLUMNS": "250"})
    assert done.exit_code == 0, done.output
    return done.output


def test_a_run_after_three_percent_new_annotations_trains_on_them_and_says_so(prepare: Prepare) -> None:
    first, again, last = prepare(97), prepare(97), prepare(100)
    assert again.steps["prepare_datasets"].status.value == "cached"
    assert last.steps["prepare_datasets"].status.value == "completed"
    assert _records(last) - _records(first) == {"record-097", "record-098", "record-099"}
    report = last.steps["ingest_feedback"].outputs["ingest_report"][0].load()
    assert isinstance(report, Report)
    assert "3 (3.0%) are new" in report.data["summary"]
    reference = last.steps["ingest_feedback"].outputs["feedback"][0].load()
    assert isinstance(reference, LedgerRef)
    assert reference.sequence == 100


def test_trace_names_the_runs_in_which_a_record_counted(prepare: Prepare, ledger: str) -> None:
    first, last = prepare(10), prepare(11)
    both = _said("--ledger", ledger, "trace", "record-003")
    assert first.name in both
    assert last.name in both
    only = _said("--ledger", ledger, "trace", "record-010")
    assert first.name not in only
    assert last.name in only


def test_trace_names_the_champion_that_a_record_helped_to_train(first_run: PipelineRunResponse) -> None:
    said = _said("--ledger", default_url(), "show")
    record = re.search(r"support-desk-7-\w+-\d{6}", said)
    assert record is not None
    said = _said("trace", record[0])
    assert first_run.name in said
    assert "champion" in said
    assert "reward_model" in said


def _holding(text: str) -> set[str]:
    """Kinds of files of the whole installation that hold a text."""
    files = (file for file in environment.home().rglob("*") if file.is_file())
    return {file.name for file in files if text.encode() in file.read_bytes()}


def test_erasing_leaves_no_file_with_the_record_and_the_next_run_goes_on_without_it(
    prepare: Prepare, ledger: str
) -> None:
    run = prepare(50, "erased")
    report = run.steps["prepare_datasets"].outputs["data_report"][0].load()
    quoted = re.search(r"question of (erased-\d{3})", report.html)
    assert quoted is not None
    record, text = quoted[1], quoted[0]
    everywhere = {"train.arrow", "rows.html", "page.html", "report.html", "data.html"}
    assert everywhere <= _holding(text)
    shown = _said("--ledger", ledger, "show", record)
    assert f"user:\n{text}" in shown
    assert "response 1:" in shown
    before = _said("--ledger", ledger, "log")
    listed = _said("--ledger", ledger, "erase", record)
    assert "Nothing was changed" in listed
    assert "comparisons" in listed
    assert _said("--ledger", ledger, "log") == before
    assert everywhere <= _holding(text)
    environment.hub_datasets().mkdir(parents=True, exist_ok=True)
    (environment.hub_datasets() / "rows.arrow").write_text(text)
    left = _said("--ledger", ledger, "erase", record, "--yes")
    assert _holding(text) == set()
    assert "Left: the source" in left
    exported = CliRunner().invoke(main, ["feedback", "export", "prompts", str(Path(ledger) / "p.csv")])
    assert "was deleted when feedback in it was erased" in exported.output
    assert (
        report.data["sizes"] == run.steps["prepare_datasets"].outputs["data_report"][0].load().data["sizes"]
    )
    assert _records(prepare(50, "erased")) == {f"erased-{n:03d}" for n in range(50)} - {record}
    shutil.rmtree(ledger)  # what was emptied is not taken from the cache where the feedback is as it was
    assert record in _records(prepare(50, "erased"))


def test_a_record_that_never_was_there_is_one_sentence_without_a_trace(prepare: Prepare, ledger: str) -> None:
    prepare(3)
    done = CliRunner().invoke(main, ["feedback", "--ledger", ledger, "forget", "nobody"])
    assert done.exit_code == 1
    assert "Traceback" not in done.output
