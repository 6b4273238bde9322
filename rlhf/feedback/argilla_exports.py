"""Datasets that Argilla 1 exported (``FeedbackDataset.format_as("datasets")``, what ``push_to_huggingface``
uploads): a column for each field and each question, nothing that says which is which. Up to 1.13 a question's
responses are a struct of lists, later a list of structs; both are read. An annotator who left a question
unanswered is absent from that column only, so columns are joined by ``user_id``, never by position."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from rlhf.errors import ConfigError
from rlhf.feedback.annotation_servers.answers import SUGGESTION, rows_of_record
from rlhf.feedback.annotation_servers.mapping import Plan, plan_mapping
from rlhf.feedback.annotation_servers.schema import Answers, Field, Question, QuestionType, Schema
from rlhf.feedback.annotation_servers.settings import MappingSettings
from rlhf.feedback.records import BadRecordError, Outcome, Quarantined, Record, checked, excerpt_of, record_id

_HEAD = 2000
"""Records looked at to tell questions from fields: a question that nobody answered holds nulls."""
_RESPONSE_KEYS = {"user_id", "value", "status"}
_SUGGESTION = "-suggestion"
_METADATA = "-suggestion-metadata"
_NOT_SHOWN = ("external_id", "metadata", "vectors")
_LABEL_CHARS = 40
_MOST_LABELS = 20


def has_responses(first_rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether some column holds annotators' responses."""
    return any(_is_responses(value) for row in first_rows for value in row.values())


def argilla_export(records: Iterable[Record], source: str) -> Iterator[Outcome]:
    """Rows of an export. Nothing says when an answer was given, so ``updated_at`` is empty."""
    remaining = iter(records)
    head = list(itertools.islice(remaining, _HEAD))
    schema = schema_of([record.values for record in head])
    plan: Plan | None = None
    with suppress(ConfigError):
        plan = plan_mapping(schema, MappingSettings(), source)
    for record in itertools.chain(head, remaining):
        try:
            if plan is None:
                raise BadRecordError("none of the export's fields is clearly the prompt; call one 'prompt'")
            fields = {field.name: record.values.get(field.name) for field in schema.fields}
            # Not of the answers: a record must keep its id when annotators go on working.
            external = record.values.get("external_id")
            identity = str(external) if external else record_id(fields)
            answered = answers_of(record.values, schema)
            for row in rows_of_record(plan, source, identity, fields, answered):
                yield checked(row, record.line)
        except BadRecordError as bad:
            yield Quarantined(source, record.line, str(bad), excerpt_of(record.values))
        except UnicodeEncodeError:
            reason = "text with a lone surrogate, which is not Unicode"
            yield Quarantined(source, record.line, reason, excerpt_of(record.values))


def schema_of(rows: Sequence[Mapping[str, Any]]) -> Schema:
    """Fields and questions as columns and values show them: a column with responses is a question, and so is
    one that has a column with suggestions beside it."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    questions = [
        column
        for column in columns
        if f"{column}{_METADATA}" in columns or any(_is_responses(row.get(column)) for row in rows)
    ]
    beside = {f"{question}{ending}" for question in questions for ending in (_SUGGESTION, _METADATA)}
    fields = [column for column in columns if column not in (*questions, *beside, *_NOT_SHOWN)]
    return Schema(
        tuple(Field(name) for name in fields),
        tuple(_question(name, rows) for name in questions),
    )


def answers_of(values: Mapping[str, Any], schema: Schema) -> list[Answers]:
    """One record's answers by annotator, then what models suggested as drafts.

    Raises:
        BadRecordError: a question's column holds something else than responses.
    """
    given: dict[str, Answers] = {}
    nameless: list[Answers] = []
    for question in schema.questions:
        for response in _responses(values.get(question.name), question.name):
            status = response["status"] or "submitted"
            user = response["user_id"]
            if user is None:  # a deleted user's; two of them may be two people, so they are not joined
                nameless.append(Answers("unknown", status, "", {question.name: _plain(response["value"])}))
                continue
            answers = given.setdefault(user, Answers(user, status, "", {}))
            given[user] = replace(
                answers, values={**answers.values, question.name: _plain(response["value"])}
            )
    return [*given.values(), *nameless, *_suggestions(values, schema)]


def _suggestions(values: Mapping[str, Any], schema: Schema) -> list[Answers]:
    suggested: dict[str, dict[str, Any]] = {}
    for question in schema.questions:
        suggestion = values.get(f"{question.name}{_SUGGESTION}")
        if suggestion is not None:
            about = values.get(f"{question.name}{_METADATA}")
            agent = about.get("agent") if isinstance(about, Mapping) else None
            name = f"{SUGGESTION}{agent or 'unknown'}"
            suggested.setdefault(name, {})[question.name] = _plain(suggestion)
    return [Answers(agent, "draft", "", answers) for agent, answers in suggested.items()]


def _is_responses(value: Any) -> bool:
    if isinstance(value, Mapping):
        lengths = {
            len(held) if isinstance(held, list) else None
            for held in (value.get(key) for key in _RESPONSE_KEYS)
        }
        return len(lengths) == 1 and None not in lengths
    if isinstance(value, list) and value:
        return all(isinstance(item, Mapping) and item.keys() >= _RESPONSE_KEYS for item in value)
    return False


def _responses(value: Any, question: str) -> list[Mapping[str, Any]]:
    if value is None or value == []:
        return []
    if not _is_responses(value):
        raise BadRecordError(f"column '{question}' does not hold responses")
    if isinstance(value, list):
        return value
    return [
        {"user_id": user, "value": answer, "status": status}
        for user, answer, status in zip(value["user_id"], value["value"], value["status"], strict=True)
    ]


def _plain(value: Any) -> Any:
    """An answer in the common form: rankings, which are a list of structs or a struct of lists, as pairs of
    option and rank."""
    if isinstance(value, Mapping) and value.keys() >= {"rank", "value"}:
        return list(zip(value["value"], value["rank"], strict=False))
    if isinstance(value, list) and value and isinstance(value[0], Mapping) and "rank" in value[0]:
        return [(item["value"], item["rank"]) for item in value]
    return value


def _question(name: str, rows: Iterable[Mapping[str, Any]]) -> Question:
    answers = []
    for row in rows:
        if _is_responses(row.get(name)):
            answers += [response["value"] for response in _responses(row[name], name)]
        answers.append(row.get(f"{name}{_SUGGESTION}"))
    answers = [_plain(answer) for answer in answers if answer is not None]
    kind, options = _type_of(answers)
    return Question(name, kind, options=options)


def _type_of(answers: Sequence[Any]) -> tuple[QuestionType, tuple[str, ...]]:
    if not answers:
        return "other", ()
    first = answers[0]
    if isinstance(first, int | float) and not isinstance(first, bool):
        return "rating", ()
    if isinstance(first, str):
        # A label and a text have the same type in an export; few and short values that recur are labels.
        values = Counter(answers)
        recurring = len(values) <= _MOST_LABELS and len(answers) >= 3 * len(values)
        if recurring and all(len(value) <= _LABEL_CHARS for value in values):
            return "label", tuple(sorted(values))
        return "text", ()
    if isinstance(first, list) and all(isinstance(item, str) for item in first):
        return "multi-label", tuple(sorted({label for answer in answers for label in answer}))
    if isinstance(first, list) and all(isinstance(item, tuple) for item in first):
        return "ranking", tuple(dict.fromkeys(option for answer in answers for option, _ in answer))
    return "span", ()
