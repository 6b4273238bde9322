"""A source's raw records on their way to annotation rows, and the checks every row passes. No file is opened
here and no layout is known."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.feedback.rows import KINDS, STATUSES, AnnotationRow, Message

ROLES = ("system", "user", "assistant", "context")
EXCERPT_CHARS = 200

# The same roles under the names of ShareGPT, OASST and Taskmaster.
_ROLE_ALIASES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "agent": "assistant",
    "model": "assistant",
}


@dataclass(frozen=True, slots=True)
class Record:
    """One object as a source holds it; ``line`` is its 1-based line or row number there."""

    line: int
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A record that cannot be used. ``reason`` names the fault and holds nothing of the record itself, so
    that equal faults can be counted."""

    source: str
    line: int
    reason: str
    excerpt: str


class BadRecordError(Exception):
    """Raised by converters for a record that cannot be used; caught where the record is quarantined."""


Outcome = AnnotationRow | Quarantined
"""What a source yields: a row, or in its place the reason why there is none."""

Converter = Callable[[Mapping[str, Any], str], Iterable[AnnotationRow]]
"""``(values, source) -> rows``; raises :class:`BadRecordError`."""


def excerpt_of(content: Any) -> str:
    """The beginning of a record for people; what cannot be encoded is replaced."""
    if isinstance(content, Mapping):
        content = ", ".join(f"{key}: {str(value)[:EXCERPT_CHARS]}" for key, value in content.items())
    return str(content)[:EXCERPT_CHARS].encode("utf-8", "replace").decode()


def row_wise(convert: Converter, records: Iterable[Record], source: str) -> Iterator[Outcome]:
    """Apply a converter of single records; a record it refuses is quarantined, as are its unusable rows."""
    for record in records:
        try:
            for row in convert(record.values, source):
                yield checked(row, record.line)
        except BadRecordError as bad:
            yield Quarantined(source, record.line, str(bad), excerpt_of(record.values))
        except UnicodeEncodeError:  # JSON escapes can spell lone surrogates, which are no text
            reason = "text with a lone surrogate, which is not Unicode"
            yield Quarantined(source, record.line, reason, excerpt_of(record.values))


def checked(row: AnnotationRow, line: int) -> Outcome:
    """The row itself, or its quarantine when it contradicts the contract of its kind."""
    reason = fault_of(row)
    if reason is None:
        return row
    return Quarantined(
        row.source, line, reason, excerpt_of({"prompt": row.prompt, "responses": row.responses})
    )


def fault_of(row: AnnotationRow) -> str | None:
    """What makes a row unusable, or None. One empty response of two is fine: that a reply is empty is a
    reason to prefer the other."""
    if row.kind not in KINDS:
        return "unknown kind"
    if row.status not in STATUSES:
        return "unknown status"
    if not all(isinstance(text, str) for text in row.responses):
        return "a response is not text"
    for message in row.prompt:
        if message.get("role") not in ROLES:
            return "unknown role in the prompt"
        if not isinstance(message.get("content"), str):
            return "a message of the prompt is not text"
    if row.prompt and not any(message["content"].strip() for message in row.prompt):
        return "empty prompt"
    if not row.prompt and row.kind not in ("demonstration", "rating"):
        return "no prompt"
    return _VALUE_CHECKS[row.kind](row)


def _demonstration_fault(row: AnnotationRow) -> str | None:
    if row.responses:
        return "a demonstration with responses"
    if not isinstance(row.value, str):
        return "demonstration is not text"
    # A draft without text stands for a prompt that nobody has answered yet.
    if not row.value.strip() and not (row.prompt and row.status != "submitted"):
        return "empty text"
    return None


def _comparison_fault(row: AnnotationRow) -> str | None:
    if len(row.responses) != 2:
        return "a comparison needs two responses"
    if row.responses[0].strip() == row.responses[1].strip():
        return "both sides are equal"
    if row.value is not None and (isinstance(row.value, bool) or row.value not in (0, 1)):
        return "a comparison's value is not 0, 1 or null"
    return None


def _ranking_fault(row: AnnotationRow) -> str | None:
    if len(row.responses) < 2:
        return "a ranking needs two responses or more"
    ranks = row.value
    if not isinstance(ranks, Sequence) or isinstance(ranks, str) or len(ranks) != len(row.responses):
        return "a ranking needs one rank per response"
    if not all(isinstance(rank, int) and not isinstance(rank, bool) for rank in ranks):
        return "a rank is not a whole number"
    return None


def _rating_fault(row: AnnotationRow) -> str | None:
    if len(row.responses) != 1:
        return "a rating needs one response"
    number = isinstance(row.value, int | float) and not isinstance(row.value, bool)
    return None if number and math.isfinite(row.value) else "a rating is not a number"


def _label_fault(row: AnnotationRow) -> str | None:
    if len(row.responses) != 1:
        return "a label needs one response"
    return (
        None
        if isinstance(row.value, str | bool) and row.value != ""
        else "a label is neither text nor boolean"
    )


def _edit_fault(row: AnnotationRow) -> str | None:
    if len(row.responses) != 1:
        return "a text edit needs one response"
    if not isinstance(row.value, str):
        return "a text edit is not text"
    return None if row.value.strip() else "empty text"


_VALUE_CHECKS: dict[str, Callable[[AnnotationRow], str | None]] = {
    "demonstration": _demonstration_fault,
    "comparison": _comparison_fault,
    "ranking": _ranking_fault,
    "rating": _rating_fault,
    "label": _label_fault,
    "text-edit": _edit_fault,
}


def text_of(values: Mapping[str, Any], column: str, *, optional: bool = False) -> str:
    """The text in a column without surrounding whitespace; empty for an absent or null optional one.

    Raises:
        BadRecordError: the column is absent, null or not text.
    """
    value = values.get(column)
    if value is None and optional:
        return ""
    if value is None:
        raise BadRecordError(f"column '{column}' is missing or null")
    if not isinstance(value, str):
        raise BadRecordError(f"column '{column}' is not text but {type(value).__name__}")
    return value.strip()


def user_prompt(text: str, context: str = "") -> tuple[Message, ...]:
    """A prompt of one user turn, after its reference text if there is one.

    Raises:
        BadRecordError: the text is empty.
    """
    if not text:
        raise BadRecordError("empty prompt")
    turn = Message(role="user", content=text)
    return (Message(role="context", content=context), turn) if context else (turn,)


def messages_of(value: Any, column: str) -> list[Message]:
    """A list of chat messages in our roles, contents stripped; ``from``/``value`` and ``text`` keys are
    understood.

    Raises:
        BadRecordError: it is not a list of messages with text, or a role is unknown.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise BadRecordError(f"column '{column}' is not a list of messages")
    messages = []
    for item in value:
        if not isinstance(item, Mapping):
            raise BadRecordError(f"column '{column}' is not a list of messages")
        role = str(item.get("role", item.get("from", ""))).lower()
        role = _ROLE_ALIASES.get(role, role)
        content = item.get("content", item.get("value", item.get("text")))
        if role not in ROLES:
            raise BadRecordError(f"column '{column}' has a message of unknown role")
        if not isinstance(content, str):
            raise BadRecordError(f"column '{column}' has a message without text")
        if content.strip() or role not in ("system", "context"):
            messages.append(Message(role=role, content=content.strip()))
    return messages


def parsed_json(values: Mapping[str, Any], column: str) -> Any:
    """The value of a column that holds JSON, as text or already parsed."""
    value = values.get(column)
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise BadRecordError(f"column '{column}' is not JSON") from error


def record_id(values: Mapping[str, Any], column: str = "id") -> str:
    """The source's own id where it has one, else a hash of the content, so that equal records have equal
    ids."""
    own = values.get(column)
    if isinstance(own, str | int) and not isinstance(own, bool) and own != "":
        return str(own)
    content = json.dumps(dict(values), sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
