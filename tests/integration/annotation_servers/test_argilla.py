"""The Argilla source against a real argilla-server."""

import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import DataError
from rlhf.feedback.annotation_servers.argilla import ArgillaReader
from rlhf.feedback.annotation_servers.settings import ArgillaSource, ArgillaTarget
from rlhf.feedback.ledger import history
from rlhf.feedback.ledger.ingest import ingest_into_ledger
from rlhf.feedback.push import RankingItem, push_prompts
from rlhf.feedback.rows import AnnotationRow, Message
from rlhf.feedback.settings import FeedbackSettings

from .argilla_desk import ArgillaDesk, ranked
from .argilla_stack import ArgillaStack
from .proxy import FailingProxy

# A server that starts on a busy machine takes minutes.
pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]


def reader(desk: ArgillaDesk, **more: Any) -> ArgillaReader:
    settings = {
        "api_url": desk.url,
        "workspace": desk.workspace,
        "dataset": "replies",
        "name": "desk",
        **more,
    }
    return ArgillaReader(ArgillaSource.model_validate(settings))


def rows(source: ArgillaReader, watermark: Any = None) -> list[AnnotationRow]:
    outcomes = list(source.read_since(watermark))
    refused = [outcome for outcome in outcomes if not isinstance(outcome, AnnotationRow)]
    assert refused == []
    return [outcome for outcome in outcomes if isinstance(outcome, AnnotationRow)]


def of(found: list[AnnotationRow], annotator: str, record: str) -> list[tuple[str, str, Any, str]]:
    return [
        (row.question, row.kind, row.value, row.status)
        for row in found
        if row.annotator.startswith(annotator) and row.record_id == record
    ]


def test_what_three_annotators_did_comes_back_as_rows(argilla_stack: ArgillaStack) -> None:
    desk = ArgillaDesk(argilla_stack.url, argilla_stack.key, "rows", 4)
    desk.answer("ann", 0, "submitted", ranking=ranked(1, 2), better="response-1", comment="fine")
    desk.answer("ben", 0, "submitted", ranking=ranked(2, 1), better="tie", issues_of_response_2=["rude"])
    desk.answer("cem", 0, "submitted", ranking=ranked(1, 1))
    desk.answer("ann", 1, "draft", quality_of_response_1=2)
    desk.answer("ben", 1, "discarded")
    desk.answer("cem", 1, "submitted", ranking=ranked(1, 2), corrected_response_1="It arrives today.")
    found = rows(reader(desk))
    assert of(found, "ann", "record-0") == [
        ("ranking", "ranking", [1, 2], "submitted"),
        ("better", "comparison", 0, "submitted"),
    ]
    assert of(found, "ben", "record-0") == [
        ("ranking", "ranking", [2, 1], "submitted"),
        ("better", "comparison", None, "submitted"),
        ("issues-of-response-2/rude", "label", "rude", "submitted"),
        ("issues-of-response-2/wrong", "label", "not wrong", "submitted"),
    ]
    assert of(found, "cem", "record-0") == [("ranking", "ranking", [1, 1], "submitted")]
    assert of(found, "ann", "record-1") == [("quality-of-response-1", "rating", 2.0, "draft")]
    assert of(found, "ben", "record-1") == [("", "demonstration", "", "discarded")]
    edit = next(row for row in found if row.kind == "text-edit")
    assert (edit.value, edit.responses) == ("It arrives today.", ("Parcel 1 is on its way.",))
    assert edit.prompt == (
        {"role": "context", "content": "Parcels take two days."},
        {"role": "user", "content": "Where is parcel 1?"},
    )
    suggested = [row for row in found if row.annotator == "suggestion:model-a"]
    assert Counter((row.kind, row.value, row.status) for row in suggested) == {("rating", 3.0, "draft"): 4}
    assert [row.record_id for row in found if row.annotator == "unknown"] == ["record-2", "record-3"]
    assert all(row.updated_at.endswith("Z") for row in found if row.annotator != "unknown")


def test_late_edits_and_deletions_are_seen_and_an_unchanged_dataset_is_not_read(
    argilla_stack: ArgillaStack,
) -> None:
    desk = ArgillaDesk(argilla_stack.url, argilla_stack.key, "changes", 3)
    first = desk.answer("ann", 0, "submitted", ranking=ranked(1, 2))
    second = desk.answer("ben", 1, "submitted", ranking=ranked(1, 2))
    source = reader(desk)
    before = {row.row_hash for row in rows(source)}
    assert source.complete
    assert rows(source, source.watermark) == []
    assert not source.complete  # nothing was read, so nothing is missing
    mark = source.watermark
    desk.edit("ann", first, ranking=ranked(2, 1))
    edited = rows(source, mark)
    (changed,) = [row for row in edited if row.row_hash not in before]
    assert (changed.value, changed.annotator.split(".")[0], source.complete) == ([2, 1], "ann", True)
    desk.delete_response("ben", second)
    left = rows(source, source.watermark)
    assert not [row for row in left if row.annotator.startswith("ben")]
    desk.delete_record(2)
    left = rows(source, source.watermark)
    assert (source.complete, {row.record_id for row in left}) == (True, {"record-0", "record-1"})


def test_an_unchanged_dataset_writes_nothing_and_every_third_ingest_reads_it_in_full(
    argilla_stack: ArgillaStack, tmp_path: Path
) -> None:
    desk = ArgillaDesk(argilla_stack.url, argilla_stack.key, "third", 2)
    desk.answer("ann", 0, "submitted", ranking=ranked(1, 2))
    ledger = str(tmp_path / "ledger")
    scans = []
    with FailingProxy(argilla_stack.url, lambda number, path: None) as proxy:
        source = {"type": "argilla", "api_url": proxy.url, "workspace": desk.workspace, "dataset": "replies"}
        settings = FeedbackSettings.model_validate(
            {"sources": [source], "ledger": {"url": ledger, "full_scan_every": 3}}
        )
        for _ in range(7):
            proxy.requests.clear()
            ingest_into_ledger(settings)
            scans.append(any("include=responses" in path for path in proxy.requests))
    assert scans == [True, False, False, True, False, False, True]
    assert [commit.action for commit in history.log(ledger)] == ["ingest"]


def test_503s_and_dropped_connections_cost_no_record(argilla_stack: ArgillaStack) -> None:
    desk = ArgillaDesk(argilla_stack.url, argilla_stack.key, "failing", 40)
    desk.answer("ann", 7, "submitted", ranking=ranked(1, 2))
    whole = rows(reader(desk))

    def fails(number: int, path: str) -> int | None:
        return {0: 503, 1: 0, 2: None}[number % 3]

    with FailingProxy(argilla_stack.url, fails) as proxy:
        assert rows(reader(desk, api_url=proxy.url, page_size=7)) == whole
    assert len(proxy.requests) > 20


def test_a_server_killed_in_the_middle_of_a_read_is_waited_for(argilla_stack: ArgillaStack) -> None:
    desk = ArgillaDesk(argilla_stack.url, argilla_stack.key, "killed", 30)
    whole = rows(reader(desk))
    reading = reader(desk, page_size=4).read()
    begun = [next(reading) for _ in range(3)]
    argilla_stack.server.kill()

    def later() -> None:
        time.sleep(1)
        argilla_stack.start_server()

    restart = threading.Thread(target=later)
    restart.start()
    assert [*begun, *reading] == whole
    restart.join()


def test_a_server_that_stays_dead_is_an_error_and_never_a_short_read(argilla_stack: ArgillaStack) -> None:
    desk = ArgillaDesk(argilla_stack.url, argilla_stack.key, "dead", 30)

    def fails(number: int, path: str) -> int | None:
        return 503 if "offset=14" in path or "offset=7" in path else None

    with FailingProxy(argilla_stack.url, fails) as proxy:
        source = reader(desk, api_url=proxy.url, page_size=8, patience_seconds=1)
        with pytest.raises(
            DataError, match=r"does not answer \(status 503\) while reading records from number"
        ):
            list(source.read())
    assert (source.complete, source.watermark) == (False, None)


def test_records_deleted_during_a_read_shift_nothing_out_of_it(argilla_stack: ArgillaStack) -> None:
    desk = ArgillaDesk(argilla_stack.url, argilla_stack.key, "shifted", 30)
    source = reader(desk, page_size=5)
    reading = source.read()
    next(reading)
    desk.delete_record(0)
    desk.delete_record(1)
    desk.add(range(30, 32))  # the total is what it was
    list(reading)
    assert {f"record-{number}" for number in range(2, 32)} <= source.whole_records
    # What was deleted after it had been given is found by the next read.
    again = rows(source, source.watermark)
    assert {row.record_id for row in again} == {f"record-{number}" for number in range(2, 32)}


def test_what_is_wrong_is_said_in_one_sentence(
    argilla_stack: ArgillaStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = ArgillaDesk(argilla_stack.url, argilla_stack.key, "wrong", 1)
    monkeypatch.setenv("BAD_KEY", "not-a-key")
    monkeypatch.setenv("ANN_KEY", desk.annotators["ann"].headers["X-Argilla-Api-Key"])
    removed = {"questions": {"helpful": {"kind": "rating", "field": "response-1"}}}
    for more, said in (
        ({"key_variable": "BAD_KEY"}, "does not accept the key in BAD_KEY"),
        ({"key_variable": "ANN_KEY"}, "key in ANN_KEY does not allow"),
        ({"key_variable": "NO_KEY"}, "needs a key in the environment variable NO_KEY"),
        ({"workspace": "elsewhere"}, "has no workspace 'elsewhere'"),
        ({"dataset": "answers"}, "has no dataset 'answers' in workspace 'wrong', but replies"),
        ({"mapping": removed}, "has no question helpful but better, comment"),
    ):
        problem = reader(desk, **more).problem()
        assert problem is not None
        assert said in problem
        assert "not-a-key" not in problem


def test_pushed_prompts_come_back_ranked_and_are_pushed_once(argilla_stack: ArgillaStack) -> None:
    desk = ArgillaDesk(argilla_stack.url, argilla_stack.key, "push", 1)
    target = ArgillaTarget(api_url=desk.url, workspace="push", dataset="ranking", overlap=2)
    items = [
        RankingItem((Message(role="user", content=f"Question {n}?"),), ("Yes.", "No.", "Maybe."))
        for n in (1, 2)
    ]
    assert [push_prompts(target, items), push_prompts(target, items)] == [2, 0]
    source = reader(desk, dataset="ranking")
    assert [row.prompt for row in rows(source)] == [item.prompt for item in items]
    desk.dataset = source._dataset
    desk.ids = [record["id"] for record in desk.listed()]
    answer = [{"value": f"response-{number}", "rank": rank} for number, rank in ((1, 2), (2, 1), (3, 2))]
    desk.answer("ann", 0, "submitted", ranking=answer)
    (ranking,) = [row for row in rows(source) if row.kind == "ranking"]
    assert (ranking.responses, ranking.value) == (("Yes.", "No.", "Maybe."), [2, 1, 2])
