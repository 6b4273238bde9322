"""Layouts that keep every annotator's verdict apart: PandaLM's verdict columns, UKPConvArg1's assignments,
and our own annotation rows."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from rlhf.feedback.records import BadRecordError, messages_of, parsed_json, record_id, text_of, user_prompt
from rlhf.feedback.rows import AnnotationRow

_VERDICT_COLUMN = re.compile(r"annotator_?\d+")
_PANDALM_VALUE = {0: None, 1: 0, 2: 1}
_TEXT_KINDS = ("demonstration", "label", "text-edit")
_UKP_VALUE = {"equal": None, "a1": 0, "a2": 1}


def pandalm(values: Mapping[str, Any], source: str) -> Iterator[AnnotationRow]:
    """``instruction, input, response1, response2, annotator1…``: one comparison per annotator; 0 is a tie."""
    prompt = user_prompt(text_of(values, "instruction"), text_of(values, "input", optional=True))
    responses = (_pandalm_response(values, "response1"), _pandalm_response(values, "response2"))
    for column in sorted(column for column in values if _VERDICT_COLUMN.fullmatch(column)):
        verdict = values[column]
        if verdict is None:
            continue
        if isinstance(verdict, bool) or verdict not in (0, 1, 2, "0", "1", "2"):
            raise BadRecordError("a verdict is not 0, 1 or 2")
        yield AnnotationRow(
            record_id=record_id(values, "idx"),
            source=source,
            prompt=prompt,
            responses=responses,
            kind="comparison",
            value=_PANDALM_VALUE[int(verdict)],
            annotator=column,
        )


def _pandalm_response(values: Mapping[str, Any], column: str) -> str:
    # Six responses of the published test set are the JSON booleans that "True" and "False" were turned into.
    value = values.get(column)
    return str(value) if isinstance(value, bool) else text_of(values, column)


def ukp_convincing_arguments(values: Mapping[str, Any], source: str) -> Iterator[AnnotationRow]:
    """``arg1, arg2, debateMetaData, mTurkAssignments``: one comparison per assignment. The prompt asks for an
    argument in that debate, for that side."""
    first, second = (parsed_json(values, column) for column in ("arg1", "arg2"))
    debate = parsed_json(values, "debateMetaData")
    assignments = parsed_json(values, "mTurkAssignments")
    if not all(isinstance(part, Mapping) for part in (first, second, debate)) or not isinstance(
        assignments, list
    ):
        raise BadRecordError("an argument, the debate or the assignments are missing")
    stances = {text_of(argument, "stance", optional=True) for argument in (first, second)} - {""}
    title = text_of(debate, "title")
    # The corpus pairs arguments of one side; where sides differ the prompt leaves the side open.
    prompt = user_prompt(f"{title}\nStance: {stances.pop()}" if len(stances) == 1 else title)
    responses = (text_of(first, "text"), text_of(second, "text"))
    for assignment in assignments:
        if not isinstance(assignment, Mapping) or str(assignment.get("value")) not in _UKP_VALUE:
            raise BadRecordError("an assignment's value is not a1, a2 or equal")
        yield AnnotationRow(
            record_id=record_id(values),
            source=source,
            prompt=prompt,
            responses=responses,
            kind="comparison",
            value=_UKP_VALUE[str(assignment["value"])],
            question="Which argument is more convincing?",
            annotator=text_of(assignment, "turkID", optional=True) or "unknown",
        )


def annotation_rows(values: Mapping[str, Any], source: str) -> Iterator[AnnotationRow]:
    """Our own rows, as a ledger or an earlier ingest wrote them: ``value`` is JSON text in tables, plain in
    JSON files. Rows keep the source they name."""
    prompt = values.get("prompt")
    kind = text_of(values, "kind")
    value = _own_value(values, kind)
    responses = values.get("responses")
    yield AnnotationRow(
        record_id=text_of(values, "record_id"),
        source=text_of(values, "source", optional=True) or source,
        prompt=tuple(messages_of(prompt, "prompt")) if prompt else (),
        responses=tuple(responses) if isinstance(responses, list | tuple) else (),
        kind=kind,  # type: ignore[arg-type]  # checked with the row
        value=value,
        question=text_of(values, "question", optional=True),
        annotator=text_of(values, "annotator", optional=True) or "unknown",
        status=text_of(values, "status", optional=True) or "submitted",  # type: ignore[arg-type]
        updated_at=text_of(values, "updated_at", optional=True),
    )


def _own_value(values: Mapping[str, Any], kind: str) -> Any:
    """Tables hold every value as JSON; hand-written files hold text as it is, where ``5`` is text too."""
    try:
        value = parsed_json(values, "value")
    except BadRecordError:
        if kind not in _TEXT_KINDS:
            raise
        return values["value"]
    is_text = isinstance(value, str) or (kind == "label" and isinstance(value, bool))
    return values.get("value") if kind in _TEXT_KINDS and not is_text else value
