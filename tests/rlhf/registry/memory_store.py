"""A registry in memory with a mirror, which can be told to die just before or just after its n-th write."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from rlhf.registry.journal import Journal
from rlhf.registry.store import Candidate, ModelName, RegisteredVersion


class Crash(BaseException):
    """The process dies: nothing in the library may catch it."""


@dataclass
class Registries:
    """What outlives a process: the registry, its mirror and the journal."""

    models: dict[str, list[RegisteredVersion]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    journal: Journal | None = None
    mirrored: tuple[object, ...] = ()
    locks: set[str] = field(default_factory=set)


@dataclass
class MemoryStore:
    """A process's view of the registries."""

    shared: Registries = field(default_factory=Registries)
    place: str = "here"
    writes: int = 0
    crash_at: int | None = None
    crash_after: bool = False
    after_write: Callable[[str], None] = lambda _: None
    gone: set[str] = field(default_factory=set)

    def _alive(self) -> None:
        """A dead process does not clean up either."""
        if self.crash_at is not None and self.writes >= self.crash_at:
            raise Crash

    def _write(self, name: str, action: Callable[[], None]) -> None:
        self._alive()
        self.writes += 1
        crash = self.writes == self.crash_at
        if crash and not self.crash_after:
            raise Crash
        action()
        self.after_write(name)
        if crash:
            raise Crash

    @contextmanager
    def lock(self) -> Iterator[None]:
        assert self.place not in self.shared.locks, "a second process of this machine would wait here"
        self.shared.locks.add(self.place)
        try:
            yield
        finally:
            self.shared.locks.discard(self.place)

    def journal(self) -> Journal | None:
        self._alive()
        return self.shared.journal

    def begin(self, journal: Journal) -> bool:
        if self.shared.journal is not None:
            return False
        self._write("begin", lambda: setattr(self.shared, "journal", journal))
        return True

    def record(self, journal: Journal) -> None:
        assert self.shared.journal is not None
        self._write("record", lambda: setattr(self.shared, "journal", journal))

    def end(self) -> None:
        self._write("end", lambda: setattr(self.shared, "journal", None))

    def aliases(self) -> dict[str, str]:
        return dict(self.shared.aliases)

    def versions(self, model: ModelName) -> list[RegisteredVersion]:
        return list(self.shared.models.get(model, []))

    def register(self, model: ModelName, candidate: Candidate) -> RegisteredVersion:
        versions = self.shared.models.setdefault(model, [])
        new = RegisteredVersion(
            str(len(versions) + 1), candidate.digest, candidate.path, dict(candidate.tags)
        )
        self._write(f"register {model}", lambda: versions.append(new))
        return new

    def set_alias(self, place: str, version: str | None) -> None:
        def move() -> None:
            if version is None:
                self.shared.aliases.pop(place, None)
            else:
                self.shared.aliases[place] = version

        self._write(place, move)

    def set_tags(self, model: ModelName, version: str, tags: Mapping[str, str]) -> None:
        versions = self.shared.models[model]
        position = [v.version for v in versions].index(version)

        def write() -> None:
            old = versions[position]
            versions[position] = replace(old, tags={**old.tags, **tags})

        self._write("tags", write)

    def available(self, version: RegisteredVersion) -> bool:
        return version.digest not in self.gone

    def follow(self) -> None:
        self._write("follow", lambda: setattr(self.shared, "mirrored", self.mirrorable()))

    def mirrorable(self) -> tuple[object, ...]:
        """What the mirror has to show: versions and aliases."""
        versions = {name: [v.digest for v in found] for name, found in self.shared.models.items() if found}
        return versions, dict(self.shared.aliases)

    def state(self) -> tuple[object, ...]:
        """Everything but the history's times."""
        tags = {
            (name, v.version): {k: t for k, t in v.tags.items() if not k.startswith("rlhf.history")}
            for name, found in self.shared.models.items()
            for v in found
        }
        return *self.mirrorable(), tags, self.shared.journal
