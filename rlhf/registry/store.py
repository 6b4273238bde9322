"""What promotion asks of a model registry: five verbs and a lock. Implementations live outside the library.

Every verb must be safe to repeat, since an interrupted promotion is completed by running it again. A store
that writes to several registries makes one of them the source of truth for reads and moves its alias last.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from rlhf.registry.champion import ChampionRef

Alias = Literal["candidate", "champion", "previous"]

CANDIDATE: Final = "candidate"
CHAMPION: Final = "champion"
PREVIOUS: Final = "previous"


@dataclass(frozen=True)
class Candidate:
    """A model that asks to be champion."""

    digest: str
    """Content digest of the model directory: the identity of a version."""
    path: str
    """Local path or URI of the model directory, registered as the version's source without a copy."""
    description: str = ""
    """The model card, Markdown."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Lineage for machines: run ids, dataset versions, URLs."""


@dataclass(frozen=True)
class RegisteredVersion:
    """A version that the registry knows."""

    version: str
    digest: str
    path: str

    def as_champion(self) -> ChampionRef:
        """The reference that steps pass on."""
        return ChampionRef(version=self.version, digest=self.digest, path=self.path)


class RegistryStore(Protocol):
    """The registry of one model name."""

    def lock(self) -> AbstractContextManager[None]:
        """Held during a whole promotion, so that two cannot interleave.

        A back end without locks may return ``contextlib.nullcontext()``: the promotion reads the champion
        back after it moved the alias, which finds a lost race but cannot prevent it.
        """
        ...

    def champion(self) -> RegisteredVersion | None:
        """The version under the alias ``champion``."""
        ...

    def find(self, digest: str) -> RegisteredVersion | None:
        """The version with this content digest."""
        ...

    def register(self, candidate: Candidate) -> RegisteredVersion:
        """A new version. Its digest is written in the same call: without one it would never be found."""
        ...

    def set_alias(self, alias: Alias, version: str) -> None:
        """Point the alias at the version, wherever it pointed before."""
        ...

    def set_tags(self, version: str, tags: Mapping[str, str]) -> None:
        """Add or replace these tags and leave all others."""
        ...
