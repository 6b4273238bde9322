import copy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from rlhf.errors import DataError
from rlhf.feedback.annotation_servers.label_studio import LabelStudioReader, schema_of
from rlhf.feedback.annotation_servers.schema import Field, Question
from rlhf.feedback.annotation_servers.settings import LabelStudioSource
from rlhf.feedback.rows import AnnotationRow


def reader(pages: Any, serve: Callable[..., Any], **more: Any) -> LabelStudioReader:
    server = serve(more.pop("answer", pages.answer))
    settings = {"project": pages.project["id"], "patience_seconds": 0.3, "overlap_seconds": 0, **more}
    return LabelStudioReader(LabelStudioSource.model_validate({"url": server.url, **settings}))


def rows(outcomes: Any) -> list[AnnotationRow]:
    found = list(outcomes)
    assert all(isinstance(row, AnnotationRow) for row in found)
    return found


@pytest.mark.parametrize("size", [2, 3, 4, 100])
def test_recorded_pages_become_rows(label_studio_pages: Any, canned: Any, size: int) -> None:
    first = label_studio_pages.tasks[0]["id"]
    found = [
        (int(row.record_id) - first, row.annotator.split(".")[0], row.question, row.value, row.status)
        for row in rows(reader(label_studio_pages, canned, page_size=size).read())
    ]
    assert found == [
        (0, "ann", "better", 0, "submitted"),
        (0, "ann", "quality", 4.0, "submitted"),
        (0, "ben", "better", 1, "submitted"),
        (0, "ben", "tone", "kind", "submitted"),
        (0, "cem", "issues/short", "not short", "submitted"),
        (0, "cem", "issues/wrong", "wrong", "submitted"),
        (1, "ann", "", "", "discarded"),
        (1, "ben", "corrected", "It is at your door.", "submitted"),
        (2, "owner@example", "quality", 2.0, "draft"),
        (3, "suggestion:model-a", "quality", 2.0, "draft"),
        (3, "unknown", "", "", "draft"),
    ]


def test_only_tasks_changed_since_the_watermark_are_read(label_studio_pages: Any, canned: Any) -> None:
    source = reader(label_studio_pages, canned)
    rows(source.read())
    assert source.complete
    assert rows(source.read_since(source.watermark)) == []
    label_studio_pages.tasks[1]["updated_at"] = "2027-01-01T00:00:00.000000Z"
    changed = rows(source.read_since(source.watermark))
    assert {row.record_id for row in changed} == {str(label_studio_pages.tasks[1]["id"])}
    assert not source.complete
    label_studio_pages.project["task_number"] -= 1
    rows(source.read_since(source.watermark))
    assert source.complete


def moved(pages: Any, number: int, seconds: float) -> None:
    """Set a task's time of change, from now."""
    time = datetime.now(UTC) + timedelta(seconds=seconds)
    pages.tasks[number]["updated_at"] = time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def test_a_project_imported_at_one_time_is_left_alone_once_that_is_longer_ago_than_the_overlap(
    label_studio_pages: Any, canned: Any
) -> None:
    source = reader(label_studio_pages, canned, overlap_seconds=300)
    for number in range(4):
        moved(label_studio_pages, number, -200)
    rows(source.read())
    fresh = source.watermark
    assert len({row.record_id for row in rows(source.read_since(fresh))}) == 4
    assert source.watermark == fresh
    for number in range(4):
        moved(label_studio_pages, number, -400)
    rows(source.read())
    assert rows(source.read_since(source.watermark)) == []
    moved(label_studio_pages, 1, -1)
    changed = rows(source.read_since(source.watermark))
    assert {row.record_id for row in changed} == {str(label_studio_pages.tasks[1]["id"])}


def test_a_server_that_does_not_tell_the_time_is_read_with_the_overlap_each_time(
    label_studio_pages: Any, canned: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BaseHTTPRequestHandler, "date_time_string", lambda self: "some day")
    source = reader(label_studio_pages, canned, overlap_seconds=300)
    everything = rows(source.read())
    assert rows(source.read_since(source.watermark)) == everything


def test_what_changes_on_a_page_that_was_read_already_is_found_by_the_next_read(
    label_studio_pages: Any, canned: Any
) -> None:
    def answer(method: str, path: str, query: dict[str, str]) -> Any:
        found = copy.deepcopy(label_studio_pages.answer(method, path, query))
        if path == "/api/tasks":
            moved(label_studio_pages, 0, 60)  # the read lasts an hour in all
            moved(label_studio_pages, 3, 3600)
        return found

    source = reader(label_studio_pages, canned, answer=answer, page_size=2, overlap_seconds=5)
    rows(source.read())
    again = {row.record_id for row in rows(source.read_since(source.watermark))}
    assert again == {str(label_studio_pages.tasks[number]["id"]) for number in (0, 3)}


def test_an_access_token_that_ran_out_is_renewed_once(label_studio_pages: Any, canned: Any) -> None:
    refusals = 1

    def expired(method: str, path: str, query: dict[str, str]) -> Any:
        nonlocal refusals
        if path == "/api/tasks" and refusals:
            refusals -= 1
            return 401, {"detail": "expired"}
        return label_studio_pages.answer(method, path, query)

    source = reader(label_studio_pages, canned, answer=expired)
    assert rows(source.read())
    refusals = 99
    with pytest.raises(DataError, match="does not accept the key in LABEL_STUDIO_TOKEN"):
        list(source.read())


def test_a_short_page_is_never_taken_for_the_whole(label_studio_pages: Any, canned: Any) -> None:
    def cut(method: str, path: str, query: dict[str, str]) -> Any:
        status, body = label_studio_pages.answer(method, path, query)
        if path == "/api/tasks":
            body["tasks"] = body["tasks"][:1]
        return status, body

    source = reader(label_studio_pages, canned, answer=cut, page_size=2)
    with pytest.raises(DataError, match="1 of 4 tasks"):
        list(source.read())
    assert (source.complete, source.watermark) == (False, None)


def test_of_two_annotations_by_one_person_the_latest_counts(label_studio_pages: Any, canned: Any) -> None:
    first, second, _ = label_studio_pages.tasks[0]["annotations"]
    second["completed_by"] = first["completed_by"]
    label_studio_pages.tasks = label_studio_pages.tasks[:1]
    found = rows(reader(label_studio_pages, canned).read())
    assert [row.value for row in found if row.question == "better"] == [1]


def test_a_labelling_configuration_is_read_with_aliases_lists_and_buckets() -> None:
    schema = schema_of(
        """<View><Header value="$prompt"/><List name="l" value="$replies"/><Image name="i" value="$picture"/>
        <Ranker name="rank" toName="l"/><Ranker name="sorted" toName="l"><Bucket name="good"/></Ranker>
        <Choices name="tone" toName="l"><Choice value="Kind" alias="kind"/><Choice value="rude"/></Choices>
        </View>"""
    )
    assert schema.fields == (Field("prompt"), Field("replies", "items"), Field("picture", "other"))
    assert schema.questions == (
        Question("rank", "ranking", about=("replies",)),
        Question("sorted", "other", about=("replies",)),
        Question("tone", "label", options=("kind", "rude"), about=("replies",)),
    )
    with pytest.raises(DataError, match="is not XML"):
        schema_of("<View>")
