"""Settings of the built-in sample, apart from its generator: a config is validated without running it."""

from typing import Self

from pydantic import Field, model_validator

from rlhf.settings import Settings

MAX_PROMPTS = 27_000
"""Order numbers have five different digits, the first not 0, and none is used for two prompts."""


class SupportDeskSettings(Settings):
    """How much of the support desk's feedback to generate, and how bad it is."""

    seed: int = Field(default=7, ge=0)
    """Seed of everything in the sample: equal settings give equal rows. The first n demonstrations and the
    first n pairs are the same whatever the totals."""

    demonstrations: int = Field(default=6000, ge=0, le=MAX_PROMPTS)
    """Prompts that come with a written reply, of uneven quality."""

    comparisons: int = Field(default=4500, ge=0, le=MAX_PROMPTS)
    """Prompts that come with a pair of replies to choose from, each judged by one or more annotators."""

    archive: int = Field(default=8000, ge=0, le=MAX_PROMPTS)
    """Tickets of plain text to pre-train on."""

    max_judgements: int = Field(default=3, ge=1, le=5)
    """Most annotators that judge one pair; the number is drawn evenly between 1 and this."""

    annotator_noise: float = Field(default=1.0, ge=0.0)
    """Factor on every annotator's temperature: 0 makes the honest ones follow the gold utility without error
    (the careless guess and the adversarial inverts none the less)."""

    rated_share: float = Field(default=0.15, ge=0.0, le=1.0)
    """Share of demonstrations that an annotator also rated, on a scale of 1 to 5 stars."""

    edited_share: float = Field(default=0.01, ge=0.0, le=1.0)
    """Share of demonstrations that an annotator rewrote into a better reply (text-edit rows)."""

    draft_share: float = Field(default=0.01, ge=0.0, le=1.0)
    """Share of rows that were saved but never submitted; drafted demonstrations break off half-way."""

    discarded_share: float = Field(default=0.02, ge=0.0, le=1.0)
    """Share of rows that the annotator discarded."""

    @model_validator(mode="after")
    def _names_and_numbers_suffice(self) -> Self:
        if self.demonstrations + self.comparisons + self.archive > MAX_PROMPTS:
            raise ValueError(
                f"demonstrations + comparisons + archive may not exceed {MAX_PROMPTS}, because every message "
                "has its own order number; lower one of them."
            )
        if self.draft_share + self.discarded_share > 1.0:
            raise ValueError("draft_share + discarded_share may not exceed 1; lower one of them.")
        return self
