"""The rules of a rule set, as configuration: a tagged union of checks that need no model. Light on purpose;
the functions that apply them are in ``rlhf.models.reward_rules``."""

import json
from typing import Annotated, Literal, Self

import regex
from pydantic import Field, field_validator, model_validator

from rlhf.settings import Settings

Unit = Literal["characters", "words"]


class _Rule(Settings):
    weight: float = Field(default=1.0, allow_inf_nan=False)
    """What the kept rule adds to the score; negative to reward breaking it."""


class LengthRule(_Rule):
    """The completion's length lies within bounds."""

    type: Literal["length"] = "length"
    """Selects this kind of rule."""
    minimum: int = Field(default=0, ge=0)
    """Shortest length, in units."""
    maximum: int | None = Field(default=None, ge=0)
    """Longest length, in units; unset: no bound."""
    unit: Unit = "words"
    """What is counted; words are parted by whitespace, so languages without it want characters."""
    tolerance: int = Field(default=0, ge=0)
    """Units beyond a bound over which the value falls from 1 to 0 in a line; at 0 it falls at once."""

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> Self:
        if self.maximum is not None and self.maximum < self.minimum:
            raise ValueError(f"maximum {self.maximum} is below minimum {self.minimum}")
        return self


class PatternRule(_Rule):
    """A regular expression is, or is not, found in the completion."""

    type: Literal["pattern"] = "pattern"
    """Selects this kind of rule."""
    pattern: str = Field(min_length=1)
    """Regular expression, searched anywhere; anchor it with ``^`` and ``$``, and put flags in front, such as
    ``(?i)``."""
    forbidden: bool = False
    """Whether the rule is kept by completions without a match."""

    @field_validator("pattern")
    @classmethod
    def _pattern_compiles(cls, pattern: str) -> str:
        return _compilable(pattern)


class KeywordsRule(_Rule):
    """Words that belong, or do not belong, into every completion; the value is the share of them that is as
    asked."""

    type: Literal["keywords"] = "keywords"
    """Selects this kind of rule."""
    required: tuple[str, ...] = ()
    """Words or phrases that must stand in the completion."""
    forbidden: tuple[str, ...] = ()
    """Words or phrases that must not."""
    case_sensitive: bool = False
    """Whether ``Refund`` is another word than ``refund``."""

    @model_validator(mode="after")
    def _there_are_words(self) -> Self:
        words = (*self.required, *self.forbidden)
        if not words or not all(word.strip() for word in words):
            raise ValueError("name words in required or forbidden, none of them empty")
        return self


class QuoteRule(_Rule):
    """What a pattern finds in the prompt (an order number, a name) stands in the completion too; the value is
    the share of the different finds that does, and 1 where there are none."""

    type: Literal["quote"] = "quote"
    """Selects this kind of rule."""
    pattern: str = Field(min_length=1)
    """Regular expression over the prompt; of one with groups, the first group is what has to be quoted."""

    @field_validator("pattern")
    @classmethod
    def _pattern_compiles(cls, pattern: str) -> str:
        return _compilable(pattern)


class JSONRule(_Rule):
    """The completion is JSON and nothing else."""

    type: Literal["json"] = "json"
    """Selects this kind of rule."""
    required_keys: tuple[str, ...] = ()
    """Keys that it must have; it then has to be an object."""


class RepetitionRule(_Rule):
    """The completion does not repeat itself: the value is the number of different n-grams over that of all,
    and 1 where there are none."""

    type: Literal["repetition"] = "repetition"
    """Selects this kind of rule."""
    n: int = Field(default=3, ge=1)
    """Length of the n-grams, in units."""
    unit: Unit = "words"
    """Of what the n-grams are made."""


Rule = Annotated[
    LengthRule | PatternRule | KeywordsRule | QuoteRule | JSONRule | RepetitionRule,
    Field(discriminator="type"),
]
"""Any rule, told apart by ``type``."""


def _compilable(pattern: str) -> str:
    try:
        regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"pattern {json.dumps(pattern)} is no regular expression: {error}") from error
    return pattern
