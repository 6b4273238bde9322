"""From the answers to one record to annotation rows. Pure: what the project's fields and questions mean is
given as a plan, and where the answers came from does not matter."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.feedback.annotation_servers.mapping import Meaning, Plan
from rlhf.feedback.annotation_servers.schema import Answers
from rlhf.feedback.annotation_servers.settings import TIE
from rlhf.feedback.records import BadRecordError, messages_of
from rlhf.feedback.rows import AnnotationRow, Kind, Message

SUGGESTION = "suggestion:"
"""Before the name of the model whose suggestion an answer is."""
_UNANSWERED = "unknown"


def rows_of_record(
    plan: Plan, source: str, record_id: str, fields: Mapping[str, Any], answered: Iterable[Answers]
) -> Iterator[AnnotationRow]:
    """One row for each answer that teaches something.

    An annotator who answered nothing that is used (a discarded record, an empty draft) gives one
    demonstration without text, which keeps the prompt and the fact; so does a record of which nobody's
    answer is used.

    Raises:
        BadRecordError: a field or an answer is not of the type that the project's settings say.
    """
    nobody = True
    for answers in answered:
        suggested = answers.annotator.startswith(SUGGESTION)
        record = _Record(plan, fields, answers)
        produced = False
        for question, value in answers.values.items():
            meaning = plan.meanings.get(question)
            if meaning is None or value is None:
                continue
            for name, kind, responses, judged in _judgements(record, question, meaning, value):
                produced = True
                nobody = nobody and suggested
                yield AnnotationRow(
                    record_id=record_id,
                    source=source,
                    prompt=record.prompt,
                    responses=responses,
                    kind=kind,
                    value=judged,
                    question=name,
                    annotator=answers.annotator,
                    status=answers.status,  # type: ignore[arg-type]  # checked with the row
                    updated_at=answers.updated_at,
                )
        if not produced and answers.status != "submitted" and not suggested:
            nobody = False
            yield _without_text(record, source, record_id, answers)
    if nobody:
        unanswered = Answers(_UNANSWERED, "draft", "")
        yield _without_text(_Record(plan, fields, unanswered), source, record_id, unanswered)


def _without_text(record: "_Record", source: str, record_id: str, answers: Answers) -> AnnotationRow:
    return AnnotationRow(
        record_id,
        source,
        record.prompt,
        (),
        "demonstration",
        "",
        annotator=answers.annotator,
        status=answers.status,  # type: ignore[arg-type]  # checked with the row
        updated_at=answers.updated_at,
    )


@dataclass
class _Record:
    """A record as one annotator left it: prompt fields that were edited are read as edited."""

    plan: Plan
    fields: Mapping[str, Any]
    answers: Answers

    def __post_init__(self) -> None:
        edited: dict[str, Any] = {
            str(meaning.about): self.answers.values[question]
            for question, meaning in self.plan.meanings.items()
            if meaning.kind == "prompt-edit" and self.answers.values.get(question) is not None
        }
        self._shown = {**self.fields, **edited}
        self.prompt, self._last_turn = self._read_prompt()

    def response(self, name: str) -> str:
        """The text of a response field, or of the chat's last turn."""
        if name == self.plan.prompt:
            if self._last_turn is None:
                raise BadRecordError("the chat does not end in an assistant turn that could be judged")
            return self._last_turn
        return self._text(name)

    def items(self, name: str) -> dict[str, str]:
        """The responses of a list field by their ids."""
        listed = self._shown.get(name)
        if not isinstance(listed, Sequence) or isinstance(listed, str):
            raise BadRecordError(f"field '{name}' is not a list")
        found = {}
        for item in listed:
            if not isinstance(item, Mapping) or "id" not in item or not isinstance(item.get("body"), str):
                raise BadRecordError(f"field '{name}' has an entry without id and body")
            found[str(item["id"])] = item["body"].strip()
        return found

    def is_empty(self, name: str) -> bool:
        return self._shown.get(name) is None

    def _read_prompt(self) -> tuple[tuple[Message, ...], str | None]:
        plan = self.plan
        before: list[Message] = []
        if plan.system and (text := self._text(plan.system, optional=True)):
            before.append(Message(role="system", content=text))
        for name in plan.context:
            if text := self._text(name, optional=True):
                before.append(Message(role="context", content=text))
        value = self._shown.get(plan.prompt)
        if isinstance(value, Sequence) and not isinstance(value, str):
            turns = messages_of(value, plan.prompt)
            last = None
            if not plan.responses and len(turns) > 1 and turns[-1]["role"] == "assistant":
                last = turns.pop()["content"]
            return (*before, *turns), last
        text = self._text(plan.prompt)
        if not text:
            raise BadRecordError("empty prompt")
        return (*before, Message(role="user", content=text)), None

    def _text(self, name: str, *, optional: bool = False) -> str:
        value = self._shown.get(name)
        if value is None and optional:
            return ""
        if not isinstance(value, str):
            raise BadRecordError(f"field '{name}' is missing or not text")
        return value.strip()


_Judgement = tuple[str, Kind, tuple[str, ...], Any]
"""Question, kind, responses, value."""


def _judgements(record: _Record, question: str, meaning: Meaning, value: Any) -> Iterator[_Judgement]:
    match meaning.kind:
        case "demonstration":
            if text := _stripped(question, value):
                yield question, "demonstration", (), text
        case "text-edit":
            if text := _stripped(question, value):
                yield question, "text-edit", (record.response(str(meaning.about)),), text
        case "rating" | "label" if record.is_empty(str(meaning.about)):
            return  # an optional response that this record does not have
        case "rating":
            yield question, "rating", (record.response(str(meaning.about)),), _number(question, value)
        case "label":
            yield from _labels(record, question, meaning, value)
        case "comparison":
            yield from _comparison(record, question, meaning, value)
        case "ranking":
            yield from _ranking(record, question, meaning, value)


def _labels(record: _Record, question: str, meaning: Meaning, value: Any) -> Iterator[_Judgement]:
    responses = (record.response(str(meaning.about)),)
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        yield question, "label", responses, str(value)
        return
    if not isinstance(value, Sequence) or not all(isinstance(label, str) for label in value):
        raise BadRecordError(f"answer to '{question}' is not a label")
    asked = next(known for known in record.plan.schema.questions if known.name == question)
    # Each label is a question of its own, so that several annotators' answers to it can be compared.
    for label in dict.fromkeys((*asked.options, *value)):
        yield f"{question}/{label}", "label", responses, label if label in value else f"not {label}"


def _comparison(record: _Record, question: str, meaning: Meaning, value: Any) -> Iterator[_Judgement]:
    chosen = meaning.options.get(str(value))
    if chosen is None:
        raise BadRecordError(f"answer to '{question}' is none of its options")
    sides = list(dict.fromkeys(name for name in meaning.options.values() if name != TIE))
    # In the order in which annotators saw them, so that a liking for the first one can be measured.
    sides.sort(key=record.plan.responses.index)
    responses = tuple(record.response(name) for name in sides)
    yield question, "comparison", responses, None if chosen == TIE else sides.index(chosen)


def _ranking(record: _Record, question: str, meaning: Meaning, value: Any) -> Iterator[_Judgement]:
    texts = record.items(meaning.items) if meaning.items else None
    rank_of: dict[str, int] = {}
    for option, rank in value:
        if rank is None:
            continue  # an option that was left unranked
        if isinstance(rank, bool) or not isinstance(rank, int):
            raise BadRecordError(f"answer to '{question}' has a rank that is no whole number")
        name = option if texts is not None else meaning.options.get(option)
        if name is None or (texts is not None and name not in texts):
            raise BadRecordError(f"answer to '{question}' ranks an unknown option")
        rank_of[name] = rank
    if texts is not None:
        ranked = [name for name in texts if name in rank_of]
    else:
        ranked = [name for name in record.plan.responses if name in rank_of]
    if len(ranked) >= 2:
        responses = tuple(texts[name] if texts is not None else record.response(name) for name in ranked)
        yield question, "ranking", responses, [rank_of[name] for name in ranked]


def _stripped(question: str, value: Any) -> str:
    if not isinstance(value, str):
        raise BadRecordError(f"answer to '{question}' is not text")
    return value.strip()


def _number(question: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRecordError(f"answer to '{question}' is not a number")
    return float(value)
