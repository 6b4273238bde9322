"""The reference to a champion as it travels between steps. It is not the registry's record itself."""

from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator


class ChampionRef(BaseModel):
    """The champion at the moment it was asked for; without fields set, there was none."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    version: str | None = None
    """Version in the registry."""

    digest: str | None = None
    """Content digest of the model directory."""

    path: str | None = None
    """Where the model directory lies."""

    @model_validator(mode="after")
    def _all_or_nothing(self) -> Self:
        if (self.version is None) != (self.digest is None):
            raise ValueError("a champion has both a version and a digest, or neither")
        return self

    @property
    def exists(self) -> bool:
        """Whether there was a champion."""
        return self.version is not None
