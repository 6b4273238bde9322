"""The record of one move in the registry: open while it is made, part of the history afterwards."""

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

Action = Literal["promotion", "candidacy", "rollback", "appointment", "pruning"]

HISTORY_PREFIX = "rlhf.history."


class Journal(BaseModel):
    """Who moves what, why, and from where to where.

    ``prepared`` means that no alias has been moved: an interrupted move is undone by closing it. ``decided``
    means that all that is to be done is in the record: an interrupted move is finished. The one write between
    them commits.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    id: str = Field(default_factory=lambda: uuid.uuid4().hex)
    """Unique name of the move."""
    action: Action
    """``candidacy`` registers without a new champion; ``appointment`` is a person's choice of a version;
    ``pruning`` moves nothing, and keeps others from moving while it marks versions."""
    phase: Literal["prepared", "decided"] = "prepared"
    """Whether the move is committed."""
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    """When it began (UTC)."""
    by: str
    """Who answers for it."""
    why: str
    """The reason in one sentence."""
    place: str
    """Where the process runs that opened it."""
    evidence: Mapping[str, str] = Field(default_factory=dict)
    """What it rests on: digest of the decision, runs."""
    version: str | None = None
    """The policy version that it is about; known once it is decided."""
    before: Mapping[str, str | None] = Field(default_factory=dict)
    """The places that it moves, with the versions that they held."""
    after: Mapping[str, str | None] = Field(default_factory=dict)
    """The same places with their new versions, in the order in which they are moved."""

    def decided(self, version: str, aliases: Mapping[str, str], after: Mapping[str, str | None]) -> Self:
        """The committed record; ``aliases`` are all of the registry as they stand."""
        before = {where: aliases.get(where) for where in after}
        return self.model_copy(
            update={"phase": "decided", "version": version, "before": before, "after": dict(after)}
        )

    @property
    def history_tag(self) -> str:
        """The tag of the version under which it is kept, the same however often it is written."""
        return f"{HISTORY_PREFIX}{self.at:%Y%m%dT%H%M%S%f}-{self.id[:8]}"

    @property
    def age_seconds(self) -> float:
        """How long ago it began."""
        return (datetime.now(UTC) - self.at).total_seconds()
