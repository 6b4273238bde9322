"""What a promotion asks of a model registry: a journal, aliases, versions and a lock. Implementations live
outside the library.

Every verb must be safe to repeat, since an interrupted move is finished by making it again. A store that
writes to several registries makes one of them the source of truth for reads; :meth:`RegistryStore.follow`
brings the others to it.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from rlhf.registry.champion import ChampionRef
from rlhf.registry.journal import Journal

ModelName = Literal["policy", "reward-model"]
Alias = Literal["candidate", "champion", "previous"]
Role = Literal["proxy", "judge"]

POLICY: Final = "policy"
REWARD_MODEL: Final = "reward-model"
CANDIDATE: Final = "candidate"
CHAMPION: Final = "champion"
PREVIOUS: Final = "previous"
MODELS: Final[tuple[ModelName, ...]] = ("policy", "reward-model")
ROLES: Final[tuple[Role, ...]] = ("proxy", "judge")

PRUNED_TAG: Final = "rlhf.pruned"
"""When a version's files were deleted; such a version is never champion again."""


@dataclass(frozen=True)
class Candidate:
    """A model that asks to be champion, with the reward models that it was trained and judged by."""

    digest: str
    """Content digest of the model directory: the identity of a version."""
    path: str
    """Local path or URI of the model directory, registered as the version's source without a copy."""
    description: str = ""
    """The model card, Markdown."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Lineage for machines: run ids, dataset versions, URLs."""
    reward_models: Mapping[Role, "Candidate"] = field(default_factory=dict)
    """They become versions of ``reward-model`` and share the policy's fate. Theirs is empty."""
    by: str = ""
    """Who started what made it; stands in the history when nobody else answers for the promotion."""


@dataclass(frozen=True)
class RegisteredVersion:
    """A version that the registry knows."""

    version: str
    digest: str
    path: str
    tags: Mapping[str, str] = field(default_factory=dict)

    def as_champion(self) -> ChampionRef:
        """The reference that steps pass on."""
        return ChampionRef(version=self.version, digest=self.digest, path=self.path)

    def reward_model(self, role: Role) -> str | None:
        """Version of the reward model that belongs to this policy."""
        return self.tags.get(reward_model_tag(role))

    @property
    def pruned(self) -> bool:
        """Whether its files were deleted by retention."""
        return PRUNED_TAG in self.tags


class RegistryStore(Protocol):
    """The registry of policies and of the reward models that belong to them.

    Places are written as MLflow addresses them: ``policy@champion``, ``reward-model@previous-judge``.
    """

    @property
    def place(self) -> str:
        """Where this process runs, as far as :meth:`lock` reaches: a journal that was opened here by someone
        who no longer holds the lock was left by a dead process."""
        ...

    def lock(self) -> AbstractContextManager[None]:
        """Held during every move, so that two on one machine cannot interleave; freed by the death of its
        process. Between machines the journal excludes."""
        ...

    def journal(self) -> Journal | None:
        """The move that is open, whoever opened it."""
        ...

    def begin(self, journal: Journal) -> bool:
        """Open a move; ``False`` if one is open. Of several that begin at once, exactly one succeeds."""
        ...

    def record(self, journal: Journal) -> None:
        """Replace the open journal, in one atomic write."""
        ...

    def end(self) -> None:
        """Close the open move; nothing to do if there is none."""
        ...

    def aliases(self) -> Mapping[str, str]:
        """Place → version, of every place that is taken."""
        ...

    def versions(self, model: ModelName) -> list[RegisteredVersion]:
        """All versions, oldest first."""
        ...

    def register(self, model: ModelName, candidate: Candidate) -> RegisteredVersion:
        """A new version. Its digest is written in the same call: without one it would never be found."""
        ...

    def set_alias(self, place: str, version: str | None) -> None:
        """Point a place at a version, wherever it pointed before; ``None`` clears it."""
        ...

    def set_tags(self, model: ModelName, version: str, tags: Mapping[str, str]) -> None:
        """Add or replace these tags and leave all others."""
        ...

    def available(self, version: RegisteredVersion) -> bool:
        """Whether the files of a version are where the registry says."""
        ...

    def follow(self) -> None:
        """Bring what mirrors this registry to its versions and aliases, from whatever state."""
        ...


def place(model: ModelName, alias: Alias, role: Role | None = None) -> str:
    """Where an alias stands, such as ``policy@champion``. The proxy has the plain alias of ``reward-model``,
    the judge one of its own, since an alias names one version."""
    return f"{model}@{alias}" if role in (None, "proxy") else f"{model}@{alias}-{role}"


def reward_model_tag(role: Role) -> str:
    """The tag of a policy version that names the version of its reward model."""
    return f"reward_model.{role}"


def at(store: RegistryStore, alias: Alias) -> RegisteredVersion | None:
    """The policy under an alias."""
    version = store.aliases().get(place(POLICY, alias))
    return next((v for v in store.versions(POLICY) if v.version == version), None)


def by_digest(store: RegistryStore, model: ModelName, digest: str) -> RegisteredVersion | None:
    """The version with this content whose files are kept."""
    return next((v for v in store.versions(model) if v.digest == digest and not v.pruned), None)
