from typing import Any

import pytest

from rlhf.feedback.annotation_servers.answers import rows_of_record
from rlhf.feedback.annotation_servers.mapping import plan_mapping
from rlhf.feedback.annotation_servers.schema import Answers, Field, Question, Schema
from rlhf.feedback.annotation_servers.settings import MappingSettings
from rlhf.feedback.records import BadRecordError, fault_of
from rlhf.feedback.rows import AnnotationRow

SCHEMA = Schema(
    (Field("instruction"), Field("context"), Field("response-1"), Field("response-2"), Field("response-3")),
    (
        Question("ranking", "ranking", options=("response-1", "response-2", "response-3")),
        Question("new-instruction", "text"),
        Question("corrected-response-2", "text"),
        Question("quality-response-3", "rating"),
        Question("tags-response-1", "multi-label", options=("kind", "short")),
    ),
)
FIELDS = {
    "instruction": "Say hi",
    "context": None,
    "response-1": "Hi",
    "response-2": "Ho",
    "response-3": None,
}


def rows(*answered: Answers, fields: Any = FIELDS, schema: Schema = SCHEMA) -> list[AnnotationRow]:
    plan = plan_mapping(schema, MappingSettings(), "desk")
    found = list(rows_of_record(plan, "desk", "r", fields, answered))
    assert [fault_of(row) for row in found] == [None] * len(found)
    return found


def by(annotator: str, status: str = "submitted", **values: Any) -> Answers:
    return Answers(
        annotator, status, "2026-01-01T00:00:00Z", {k.replace("_", "-"): v for k, v in values.items()}
    )


def test_ties_are_kept_and_unranked_options_left_out() -> None:
    value = [("response-2", 1), ("response-1", 1), ("response-3", None)]
    (row,) = rows(by("ann", ranking=value))
    assert (row.responses, row.value) == (("Hi", "Ho"), [1, 1])


def test_an_edited_prompt_stands_before_the_same_annotators_other_answers_only() -> None:
    edit, plain = rows(
        by("ann", new_instruction="Say hello", corrected_response_2="Hello"),
        by("ben", corrected_response_2="Hey"),
    )
    assert [row.prompt[0]["content"] for row in (edit, plain)] == ["Say hello", "Say hi"]
    assert (edit.kind, edit.responses, edit.value) == ("text-edit", ("Ho",), "Hello")


def test_each_label_of_several_is_a_question_of_its_own() -> None:
    found = rows(by("ann", tags_response_1=["short"]))
    assert [(row.question, row.value) for row in found] == [
        ("tags-response-1/kind", "not kind"),
        ("tags-response-1/short", "short"),
    ]


def test_a_question_about_a_response_that_this_record_lacks_gives_no_row() -> None:
    (row,) = rows(by("ann", quality_response_3=4))
    assert (row.annotator, row.kind, row.value, row.status) == ("unknown", "demonstration", "", "draft")


def test_discards_and_drafts_without_values_keep_the_prompt_and_the_fact() -> None:
    found = rows(by("ann", "discarded"), by("ben", "draft"))
    assert [(row.annotator, row.kind, row.value, row.status) for row in found] == [
        ("ann", "demonstration", "", "discarded"),
        ("ben", "demonstration", "", "draft"),
    ]


def test_a_chat_without_response_fields_is_judged_by_its_last_turn() -> None:
    schema = Schema((Field("chat", "chat"),), (Question("quality", "rating"),))
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    (row,) = rows(by("ann", quality=4), fields={"chat": turns}, schema=schema)
    assert (row.prompt, row.responses, row.value) == (tuple(turns[:1]), ("Hello",), 4.0)


def test_a_list_of_responses_is_ranked_by_its_ids() -> None:
    schema = Schema(
        (Field("prompt"), Field("responses", "items")), (Question("rank", "ranking", about=("responses",)),)
    )
    fields = {"prompt": "Hi", "responses": [{"id": "x", "body": "a"}, {"id": "y", "body": "b"}]}
    (row,) = rows(by("ann", rank=[("y", 1), ("x", 2)]), fields=fields, schema=schema)
    assert (row.responses, row.value) == (("a", "b"), [2, 1])


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"ranking": [("response-9", 1)]}, "ranks an unknown option"),
        ({"corrected_response_2": 5}, "is not text"),
        ({"tags_response_1": {"kind": True}}, "is not a label"),
    ],
)
def test_an_answer_of_another_type_than_its_question_is_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRecordError, match=reason):
        rows(by("ann", **values))
