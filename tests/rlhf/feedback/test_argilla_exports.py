import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhf.feedback.argilla_exports import argilla_export
from rlhf.feedback.records import Quarantined, Record
from rlhf.feedback.rows import AnnotationRow
from rlhf.feedback.settings import FeedbackSettings
from rlhf.feedback.sources import open_sources

ANN, BEN = "a7a1", "b8b2"


def response(user: str | None, value: Any, status: str = "submitted") -> dict[str, Any]:
    return {"user_id": user, "value": value, "status": status}


def exported(**questions: list[dict[str, Any]] | None) -> dict[str, Any]:
    fields = {"original-instruction": "Say hi", "original-response": "Hi", "external_id": None}
    return {**fields, **{name.replace("_", "-"): answers for name, answers in questions.items()}}


def as_columns(record: dict[str, Any]) -> dict[str, Any]:
    """The older layout: of each question a struct of lists, null where nobody answered."""
    return {
        column: (
            {key: [answer[key] for answer in cell] for key in ("user_id", "value", "status")}
            if cell
            else None
        )
        if isinstance(cell, list)
        else cell
        for column, cell in record.items()
    }


# Ben left the instruction unanswered, so he stands first in one column and second in the other.
RECORDS = [
    exported(
        new_instruction=[response(ANN, "Say hello")],
        new_response=[response(BEN, "Hey"), response(ANN, "Hello")],
    ),
    exported(new_instruction=[], new_response=[response(ANN, "Hi there", "discarded")]),
    exported(new_instruction=[], new_response=[]),
]


def rows(records: list[dict[str, Any]]) -> list[AnnotationRow]:
    found = list(argilla_export((Record(n, values) for n, values in enumerate(records, 1)), "curated"))
    assert all(isinstance(row, AnnotationRow) for row in found)
    return [row for row in found if isinstance(row, AnnotationRow)]


@pytest.mark.parametrize("layout", ["lists", "columns"])
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_answers_are_joined_by_user_and_not_by_position(tmp_path: Path, layout: str, ending: str) -> None:
    records = RECORDS if layout == "lists" else [as_columns(record) for record in RECORDS]
    file = tmp_path / f"train.{ending}"
    if ending == "jsonl":
        file.write_text("\n".join(map(json.dumps, records)))
    else:
        pq.write_table(pa.Table.from_pylist(records), file)
    (source,) = open_sources(FeedbackSettings.model_validate({"sources": [{"type": "file", "path": file}]}))
    found = [row for row in source.read() if isinstance(row, AnnotationRow)]
    assert source.layout == "argilla-export"
    assert {(row.annotator, row.prompt[0]["content"], row.kind, row.value, row.status) for row in found} == {
        (ANN, "Say hello", "text-edit", "Hello", "submitted"),
        (BEN, "Say hi", "text-edit", "Hey", "submitted"),
        (ANN, "Say hi", "text-edit", "Hi there", "discarded"),
        ("unknown", "Say hi", "demonstration", "", "draft"),
    }


def test_responses_without_a_user_are_not_taken_for_one_person() -> None:
    found = rows([exported(new_instruction=[response(None, "Say X")], new_response=[response(None, "Yo")])])
    assert [(row.annotator, row.prompt[0]["content"]) for row in found] == [("unknown", "Say hi")]


def test_suggestions_are_drafts_of_their_agent() -> None:
    record = exported(new_response=[])
    record |= {
        "new-response-suggestion": "Howdy",
        "new-response-suggestion-metadata": {"type": "model", "score": None, "agent": "model-a"},
        "metadata": "{}",
    }
    assert [(row.annotator, row.value, row.status) for row in rows([record])] == [
        ("suggestion:model-a", "Howdy", "draft"),
        ("unknown", "", "draft"),
    ]


def test_other_question_types_are_told_by_their_values() -> None:
    ranking = [{"rank": 1, "value": "response-1"}, {"rank": 1, "value": "response-2"}]
    record = {
        "prompt": "Hi",
        "response-1": "a",
        "response-2": "b",
        "external_id": "x-1",
        "quality-response-1": [response(ANN, 4)],
        "rank": [
            response(ANN, ranking),
            response(BEN, {"rank": [2, 1], "value": ["response-1", "response-2"]}),
        ],
        "tags-response-2": [response(ANN, ["kind"])],
        "spans": [response(ANN, [{"start": 0, "end": 1, "label": "x", "text": "a"}])],
    }
    found = {(row.annotator, row.question, row.kind, str(row.value)) for row in rows([record])}
    assert found == {
        (ANN, "quality-response-1", "rating", "4.0"),
        (ANN, "rank", "ranking", "[1, 1]"),
        (BEN, "rank", "ranking", "[2, 1]"),
        (ANN, "tags-response-2/kind", "label", "kind"),
    }
    assert {row.record_id for row in rows([record])} == {"x-1"}


def test_a_record_keeps_its_id_when_it_gets_more_answers() -> None:
    before, after = exported(new_response=[]), exported(new_response=[response(ANN, "Hello")])
    assert len({row.record_id for row in rows([before, after])}) == 1


def test_damaged_responses_are_quarantined() -> None:
    good = exported(new_response=[response(ANN, "Hello")])
    bad = [
        {**good, "new-response": "text"},
        {**good, "new-response": {"user_id": [ANN], "value": [], "status": []}},
    ]
    found = list(argilla_export((Record(n, v) for n, v in enumerate([good, *bad], 1)), "curated"))
    assert [q.reason for q in found if isinstance(q, Quarantined)] == [
        "column 'new-response' does not hold responses",
        "column 'new-response' does not hold responses",
    ]
