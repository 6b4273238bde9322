from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from rlhf.errors import DataError
from rlhf.feedback.annotation_servers.argilla import ArgillaReader
from rlhf.feedback.annotation_servers.settings import ArgillaSource
from rlhf.feedback.rows import AnnotationRow
from rlhf.feedback.settings import FeedbackSettings
from rlhf.feedback.sources import open_sources


def reader(pages: Any, serve: Callable[..., Any], **more: Any) -> ArgillaReader:
    server = serve(more.pop("answer", pages.answer))
    settings = {"workspace": "recorded", "dataset": "replies", "patience_seconds": 0.3, **more}
    return ArgillaReader(ArgillaSource.model_validate({"api_url": server.url, **settings}))


def rows(outcomes: Any) -> list[AnnotationRow]:
    found = list(outcomes)
    assert all(isinstance(row, AnnotationRow) for row in found)
    return found


def test_recorded_pages_become_rows(argilla_pages: Any, canned: Any) -> None:
    found = rows(reader(argilla_pages, canned).read())
    people = [
        (row.record_id, row.annotator.split(".")[0], row.question, row.value, row.status)
        for row in found
        if not row.annotator.startswith("suggestion:")
    ]
    assert people == [
        ("record-0", "ann", "ranking", [1, 2], "submitted"),
        ("record-0", "ann", "better", 0, "submitted"),
        ("record-0", "ben", "ranking", [2, 1], "submitted"),
        ("record-0", "ben", "better", None, "submitted"),
        ("record-0", "ben", "issues-of-response-2/rude", "rude", "submitted"),
        ("record-0", "ben", "issues-of-response-2/wrong", "not wrong", "submitted"),
        ("record-0", "cem", "ranking", [1, 1], "submitted"),
        ("record-1", "ann", "quality-of-response-1", 2.0, "draft"),
        ("record-1", "ben", "", "", "discarded"),
        ("record-1", "cem", "ranking", [1, 2], "submitted"),
        ("record-1", "cem", "corrected-response-1", "It arrives today.", "submitted"),
        ("record-2", "unknown", "", "", "draft"),
        ("record-3", "unknown", "", "", "draft"),
        ("record-4", "unknown", "", "", "draft"),
    ]
    suggestions = Counter((row.annotator, row.status) for row in found if row.annotator.startswith("sugg"))
    assert suggestions == {("suggestion:model-a", "draft"): 5}


def test_it_is_a_source_of_a_config(argilla_pages: Any, canned: Any) -> None:
    server = canned(argilla_pages.answer)
    source = {"type": "argilla", "api_url": server.url, "workspace": "recorded", "dataset": "replies"}
    (opened,) = open_sources(FeedbackSettings.model_validate({"sources": [source]}))
    assert (opened.name, opened.layout, opened.problem()) == ("replies", "argilla", None)
    with pytest.raises(DataError, match="has no workspace 'elsewhere'"):
        open_sources(FeedbackSettings.model_validate({"sources": [{**source, "workspace": "elsewhere"}]}))


def test_ids_can_stand_for_annotators_and_then_nobody_is_listed(argilla_pages: Any, canned: Any) -> None:
    source = reader(argilla_pages, canned, annotators="id")
    users = {user["id"] for user in vars(argilla_pages)["users"]}
    found = {row.annotator for row in rows(source.read())} - {"unknown", "suggestion:model-a"}
    assert found
    assert found <= users


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6, 50])
def test_every_page_size_gives_every_record_once(argilla_pages: Any, canned: Any, size: int) -> None:
    argilla_pages.more(18)
    source = reader(argilla_pages, canned, page_size=size)
    given = [record.id for record in (source.problem(), source._records(None))[1]]
    assert given == [record["external_id"] for record in argilla_pages.records]


def test_a_short_page_is_never_taken_for_the_whole(argilla_pages: Any, canned: Any) -> None:
    argilla_pages.more(20)

    def cut(method: str, path: str, query: dict[str, str]) -> Any:
        status, body = argilla_pages.answer(method, path, query)
        if query.get("offset") == "8":
            body["items"] = body["items"][:3]
        return status, body

    source = reader(argilla_pages, canned, page_size=5, answer=cut)
    with pytest.raises(DataError, match="faster than they can be listed"):
        list(source.read())
    assert (source.complete, source.watermark) == (False, None)


def test_a_deletion_during_the_read_is_made_good(argilla_pages: Any, canned: Any) -> None:
    argilla_pages.more(20)

    deleted = False

    def delete(method: str, path: str, query: dict[str, str]) -> Any:
        nonlocal deleted
        answer = argilla_pages.answer(method, path, query)
        if query.get("offset") == "4" and not deleted:
            deleted = True
            del argilla_pages.records[0]
            argilla_pages.records.append({**argilla_pages.records[-1], "id": "new", "external_id": "new"})
        return answer

    source = reader(argilla_pages, canned, page_size=5, answer=delete)
    rows(source.read())
    assert {record["external_id"] for record in argilla_pages.records} <= source.whole_records
    assert source.watermark is not None
    assert source.watermark["state"] is None  # the next read looks again: record-0 is gone


def test_an_unchanged_dataset_is_not_read_and_has_the_same_watermark(argilla_pages: Any, canned: Any) -> None:
    source = reader(argilla_pages, canned)
    assert rows(source.read())
    mark = source.watermark
    assert rows(source.read_since(mark)) == []
    assert (source.complete, source.watermark) == (False, mark)
    argilla_pages.dataset["last_activity_at"] = "2027-01-01T00:00:00"
    assert rows(source.read_since(source.watermark))


def test_another_mapping_makes_the_watermark_void(argilla_pages: Any, canned: Any) -> None:
    source = reader(argilla_pages, canned)
    rows(source.read())
    remapped = reader(argilla_pages, canned, mapping={"questions": {"better": {"kind": "unused"}}})
    assert rows(remapped.read_since(source.watermark))
    assert remapped.complete


def test_an_answer_that_contradicts_the_settings_is_quarantined(argilla_pages: Any, canned: Any) -> None:
    argilla_pages.records[0]["responses"][0]["values"] = {"better": {"value": "response-9"}}
    refused = [row for row in reader(argilla_pages, canned).read() if not isinstance(row, AnnotationRow)]
    assert [(q.line, q.reason) for q in refused] == [(1, "answer to 'better' is none of its options")]
