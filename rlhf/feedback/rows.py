"""The annotation row: the one shape into which every feedback source is read, before anything is
aggregated."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypedDict, get_args

import pyarrow as pa

Kind = Literal["demonstration", "comparison", "ranking", "rating", "label", "text-edit"]
Status = Literal["submitted", "draft", "discarded"]
KINDS: tuple[str, ...] = get_args(Kind)
STATUSES: tuple[str, ...] = get_args(Status)


# Made once: json.dumps makes an encoder for every call that differs from its defaults.
_CANONICAL = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


class Message(TypedDict):
    """One chat turn. Roles are ``system``, ``user``, ``assistant`` and ``context`` (reference text that came
    in a field of its own, such as dolly's ``context``)."""

    role: str
    content: str


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces and no NaN: equal values have equal text."""
    return _CANONICAL.encode(value)


def sha256_of(value: Any) -> str:
    """Hex SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def prompt_hash(prompt: Iterable[Message]) -> str:
    """Identity of a prompt: equal for equal turns up to surrounding whitespace. Splits and folds hang on
    it."""
    return sha256_of([[m["role"], m["content"].strip()] for m in prompt])


@dataclass(frozen=True, slots=True)
class AnnotationRow:
    """One judgement by one annotator, as given.

    ``value`` depends on ``kind``:

    ============== ============================================ ==========================================
    kind           responses                                    value
    ============== ============================================ ==========================================
    demonstration  ``()``                                       the text written for the prompt (str)
    comparison     two                                          index of the preferred one (0 or 1), or
                                                                ``None`` for a tie
    ranking        two or more                                  rank of each response, 1 is best, ties
                                                                allowed (list[int])
    rating         one                                          the number given (float)
    label          one                                          the label given (str or bool)
    text-edit      one, the original                            the rewritten text (str)
    ============== ============================================ ==========================================

    Plain text for pre-training or language modelling is a ``demonstration`` with an empty prompt; a
    ``rating`` with an empty prompt is about a whole text.
    """

    record_id: str
    source: str
    prompt: tuple[Message, ...]
    responses: tuple[str, ...]
    kind: Kind
    value: Any
    question: str = ""
    annotator: str = "unknown"
    status: Status = "submitted"
    updated_at: str = ""
    row_hash: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        # dataclasses.asdict copies every message, which took longer than everything else about a row.
        content = {name: getattr(self, name) for name in _CONTENT}
        object.__setattr__(self, "row_hash", sha256_of(content))


_CONTENT = tuple(own.name for own in fields(AnnotationRow) if own.name != "row_hash")

ROW_SCHEMA = pa.schema(
    [
        ("record_id", pa.string()),
        ("source", pa.string()),
        ("prompt", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("responses", pa.list_(pa.string())),
        ("question", pa.string()),
        ("kind", pa.string()),
        ("value", pa.string()),  # canonical JSON: its type depends on the kind
        ("annotator", pa.string()),
        ("status", pa.string()),
        ("updated_at", pa.string()),
        ("row_hash", pa.string()),
    ]
)


def to_table(rows: Iterable[AnnotationRow]) -> pa.Table:
    """Rows as an Arrow table of ``ROW_SCHEMA``, in the given order."""
    return pa.Table.from_batches([to_batch(list(rows))], schema=ROW_SCHEMA)


def to_batch(rows: Sequence[AnnotationRow]) -> pa.RecordBatch:
    """Rows as one Arrow batch of ``ROW_SCHEMA``, in the given order."""
    columns = {name: [getattr(row, name) for row in rows] for name in ROW_SCHEMA.names}
    columns["value"] = [canonical_json(value) for value in columns["value"]]
    return pa.RecordBatch.from_pydict(columns, schema=ROW_SCHEMA)


def from_table(table: pa.Table) -> list[AnnotationRow]:
    """The inverse of :func:`to_table`."""
    return [
        AnnotationRow(
            **{
                **record,
                "prompt": tuple(record["prompt"]),
                "responses": tuple(record["responses"]),
                "value": json.loads(record["value"]),
            }
        )
        for record in table.to_pylist()
    ]
