"""What an annotation project asks, whatever tool asks it: fields that annotators see, questions that they
answer, and the answers of one annotator to one record. Readers of servers and of their exports translate into
these, and :mod:`mapping` decides what they mean."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FieldType = Literal["text", "chat", "items", "other"]
QuestionType = Literal["text", "rating", "label", "multi-label", "ranking", "pairwise", "span", "other"]


@dataclass(frozen=True, slots=True)
class Field:
    """Something shown to annotators. ``items`` is a list of objects with ``id`` and ``body``."""

    name: str
    type: FieldType = "text"


@dataclass(frozen=True, slots=True)
class Question:
    """Something asked of annotators."""

    name: str
    type: QuestionType
    title: str = ""
    options: tuple[str, ...] = ()
    """Possible answers of label and ranking questions, in the tool's order."""
    about: tuple[str, ...] = ()
    """The fields that it is about, where the tool says so."""


@dataclass(frozen=True, slots=True)
class Schema:
    """Fields and questions of one project."""

    fields: tuple[Field, ...]
    questions: tuple[Question, ...]

    def field(self, name: str) -> Field | None:
        """The field of that name."""
        return next((known for known in self.fields if known.name == name), None)


@dataclass(frozen=True, slots=True)
class Answers:
    """One annotator's answers to one record.

    ``values`` by question: text and label str; rating a number; multi-label list[str]; ranking
    ``list[(option, rank)]``, 1 is best and equal ranks are ties; pairwise the chosen one's position, 0 or 1,
    or None for a tie.
    """

    annotator: str
    status: str
    updated_at: str
    values: Mapping[str, Any] = field(default_factory=dict)
