"""Sources as the ledger sees them: under which key their rows stand, how far they were last read, and what a
reading may skip."""

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import rlhf
from rlhf.feedback.records import Outcome
from rlhf.feedback.rows import sha256_of
from rlhf.feedback.settings import FeedbackSettings, FileSource, HubSource, SampleSource, Source
from rlhf.feedback.sources import BuiltSource, CustomReader, open_sources

Watermark = Mapping[str, Any]
"""JSON: how far a source was read. Two equal ones mean that nothing has changed since."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_KEY_CHARS = 40


@runtime_checkable
class IncrementalSource(Protocol):
    """A source that can tell what changed since it was last read, such as an annotation server.

    An identity (record, question, annotator, kind) has one row there at a time; of several that are read the
    last counts. So a row that changes while it is read may come twice.
    """

    watermark: Watermark | None
    """Once ``read_since`` is exhausted: where the next reading begins. It stays the same as long as nothing
    changes, so that nothing is written."""
    complete: bool
    """Once ``read_since`` is exhausted: whether it gave every row that the source holds, so that those which
    the ledger has besides were deleted there."""

    def read_since(self, watermark: Watermark | None) -> Iterator[Outcome]:
        """Rows that came or changed since, or all with ``None``. An error is raised rather than a part of
        them taken for the whole; the ledger then keeps what it had."""
        ...


@runtime_checkable
class WholeRecordSource(IncrementalSource, Protocol):
    """One that gives all rows of every record that changed."""

    whole_records: Collection[str]
    """Once ``read_since`` is exhausted: the ids of these records. What the ledger has of them besides is
    gone, such as the judgement of an annotator who has discarded it since."""


@dataclass(frozen=True)
class Feed:
    """One source of a config on its way into the ledger."""

    name: str
    key: str
    reader: BuiltSource
    settings: Source
    options_digest: str
    """Of the options and the code that decide how its records become rows."""

    @property
    def incremental(self) -> IncrementalSource | None:
        """The source itself where it can be read from where the last reading stopped."""
        candidate = self.reader.source if isinstance(self.reader, CustomReader) else self.reader
        return candidate if isinstance(candidate, IncrementalSource) else None

    def watermark(self, previous: Watermark | None) -> Watermark | None:
        """How far the source goes now, without reading its records; None where only reading shows it.

        A file that has the size and time of the previous watermark is not opened, and one with other times
        but the same bytes has the same watermark.
        """
        match self.settings:
            case FileSource():
                return _file_watermark(self.settings.location, self.options_digest, previous)
            case SampleSource():
                return {"options": self.options_digest}
            case HubSource() if _COMMIT.fullmatch(self.settings.revision or ""):
                return {"options": self.options_digest}
            case _:
                return None


def open_feeds(settings: FeedbackSettings) -> list[Feed]:
    """All sources of a config, each looked at but none read.

    Raises:
        ConfigError: a custom class that cannot be made.
        DataError: sources that cannot be read, all of them in one message.
    """
    return [
        Feed(reader.name, source_key(source), reader, source, _options_digest(source, settings))
        for source, reader in zip(settings.sources, open_sources(settings), strict=True)
    ]


def source_key(source: Source) -> str:
    """The name of a source and a digest of where its rows come from, fit for a folder's name: two configs
    share a source's rows only if they mean the same source."""
    digest = sha256_of([source.source_name, _identity(source)])[:12]
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', source.source_name)[:_KEY_CHARS]}-{digest}"


def _identity(source: Source) -> Any:
    own = getattr(source, "identity", None)
    if own is not None:
        return own
    identity = source.model_dump(mode="json", exclude={"name", "license"})
    if isinstance(source, FileSource):
        identity["path"] = source.location.resolve().as_posix()
    return identity


def _options_digest(source: Source, settings: FeedbackSettings) -> str:
    packages = ("feedback", "sample") if isinstance(source, SampleSource) else ("feedback",)
    return sha256_of(
        [settings.max_row_bytes, settings.max_quarantined_share, *(_code_digest(name) for name in packages)]
    )


@cache
def _code_digest(package: str) -> str:
    """Of the modules of a package of ours: a reader that was mended reads everything again."""
    digest = hashlib.sha256()
    for file in sorted((Path(rlhf.__path__[0]) / package).rglob("*.py")):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _file_watermark(path: Path, options: str, previous: Watermark | None) -> Watermark:
    about = path.stat()
    known = {"options": options, "bytes": about.st_size, "modified_ns": about.st_mtime_ns}
    if previous is not None and known == {name: previous.get(name) for name in known}:
        return previous
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if previous is not None and (previous.get("options"), previous.get("sha256")) == (options, digest):
        return previous
    return {**known, "sha256": digest}
