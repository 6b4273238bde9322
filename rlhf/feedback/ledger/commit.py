"""Ingest into the ledger: each source that changed is one transaction, and nothing else is written.

Readings are compared with the rows that are live, and only the difference is appended: a second run over the
same source writes nothing, and one that broke off has written nothing. Two ingests at once number their rows
one after the other: who comes second looks again, and if the same source was ingested meanwhile, reads again.
"""

import hashlib
import logging
import random
import tempfile
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable

from rlhf.errors import DataError, LedgerError
from rlhf.feedback.ledger.batches import RowsOfCommit, stored_keys
from rlhf.feedback.ledger.changes import compare, latest
from rlhf.feedback.ledger.checks import partial_readings, remember
from rlhf.feedback.ledger.feeds import Feed, Watermark, WholeRecordSource, open_feeds
from rlhf.feedback.ledger.keys import update_digest
from rlhf.feedback.ledger.maintenance import compact
from rlhf.feedback.ledger.reference import LedgerRef
from rlhf.feedback.ledger.spool import STORED, KeyParts, Positions, Spool, ranges
from rlhf.feedback.ledger.table import (
    Head,
    Rule,
    append,
    canonical_url,
    head_of,
    identities_of,
    open_or_create,
    scan,
)
from rlhf.feedback.records import Outcome, Quarantined, checked
from rlhf.feedback.rows import AnnotationRow, sha256_of
from rlhf.feedback.settings import FeedbackSettings
from rlhf.feedback.tally import Tally

logger = logging.getLogger(__name__)

_ATTEMPTS = 20
_PAUSE_SECONDS = 0.05
_KEPT_QUARANTINED = 1000


@dataclass(frozen=True)
class SourceChange:
    """What one source's ingest changed."""

    name: str
    key: str
    committed: bool
    """Whether there was anything to write."""
    live: int
    """Rows of the source that count now."""
    new: int = 0
    edited: int = 0
    retracted: int = 0
    unchanged: int = 0
    kept_out: int = 0
    """Rows that were read but belong to what was forgotten."""
    tally: Mapping[str, Any] = field(default_factory=dict)
    """What was read, or was when the source last changed."""
    quarantined: tuple[Quarantined, ...] = ()


@dataclass
class _Reading:
    """A source's records once read."""

    spool: Spool
    complete: bool = True
    whole_records: Collection[str] = ()
    """Of a reading that is not complete, the records of which all rows were read."""
    watermark: Watermark | None = None
    tally: Tally = field(default_factory=Tally)
    quarantined: list[Quarantined] = field(default_factory=list)
    kept_out: int = 0


def ingest_all(settings: FeedbackSettings, url: str) -> tuple[LedgerRef, list[SourceChange]]:
    """Bring the ledger up to the sources.

    Raises:
        ConfigError: a custom source that cannot be made.
        DataError: a source that cannot be read or recognised, that is unusable in more than
            ``max_quarantined_share`` of its records, or no feedback at all.
        LedgerError: the ledger cannot be opened, made or written.
    """
    feeds = open_feeds(settings)
    changes = [ingest_source(feed, settings, url) for feed in feeds]
    return reference(url, tuple(feed.key for feed in feeds)), changes


def reference(url: str, source_keys: tuple[str, ...]) -> LedgerRef:
    """The ledger's present state of some sources.

    Raises:
        DataError: they have no live row.
    """
    url = canonical_url(url)
    head = head_of(open_or_create(url))
    entries = [head.sources[key] for key in source_keys if key in head.sources]
    if not any(entry["live"] for entry in entries):
        names = ", ".join(str(entry["name"]) for entry in entries)
        raise DataError(f"No feedback came in from {names}; check that the sources hold the rows you expect.")
    return LedgerRef(url, head.last_sequence, source_keys, combined_digest(e["digest"] for e in entries))


def combined_digest(digests: Iterator[str]) -> str:
    """Of several sources' digests, in whatever order they stand."""
    return sha256_of(sorted(digests))


def ingest_source(feed: Feed, settings: FeedbackSettings, url: str) -> SourceChange:
    """Bring the ledger up to one source."""
    url = canonical_url(url)
    for _ in range(_ATTEMPTS):
        table = open_or_create(url)
        head = head_of(table)
        entry = head.sources.get(feed.key)
        watermark = feed.watermark(entry["watermark"] if entry else None)
        if entry is not None and watermark is not None and watermark == entry["watermark"]:
            logger.info("%s: unchanged, %d rows", feed.name, entry["live"])
            return _unchanged(feed, entry)
        with (
            tempfile.TemporaryDirectory(prefix="rlhf-ledger-") as folder,
            Spool(Path(folder)) as spool,
        ):
            reading = _Reading(spool, watermark=watermark)
            partial = partial_readings(table, feed.key) if feed.incremental is not None else 0
            due = partial + 1 >= settings.ledger.full_scan_every
            _read(feed, reading, head, settings, whole=due)
            change = _commit(feed, reading, head, url, Path(folder))
        if change is not None:
            if feed.incremental is not None:
                remember(table, feed.key, 0 if reading.complete else partial + 1)
            logger.info(
                "%s: %d new, %d edited, %d retracted, %d unchanged, %d refused",
                *(feed.name, change.new, change.edited, change.retracted, change.unchanged),
                reading.tally.quarantined,
            )
            if change.committed:
                compact(url, feed.key)
            return change
    raise LedgerError(
        f"Source '{feed.name}' was ingested by others each time this ingest was about to write; run it again "
        "when they are done."
    )


def _unchanged(feed: Feed, entry: Mapping[str, Any]) -> SourceChange:
    return SourceChange(
        feed.name, feed.key, False, entry["live"], unchanged=entry["live"], tally=entry["tally"]
    )


def _read(feed: Feed, reading: _Reading, head: Head, settings: FeedbackSettings, *, whole: bool) -> None:
    tally = reading.tally
    entry = head.sources.get(feed.key)
    forgotten = _Forgotten(head.rules)
    for outcome in _outcomes(feed, reading, entry, whole=whole):
        if isinstance(outcome, Quarantined):
            tally.reasons[outcome.reason] += 1
            if len(reading.quarantined) < _KEPT_QUARANTINED:
                # It may be of what was forgotten: nobody can tell whose an unreadable record is.
                reading.quarantined.append(replace(outcome, excerpt="") if forgotten else outcome)
        elif forgotten and outcome in forgotten:
            reading.kept_out += 1
        else:
            tally.add(outcome)
            reading.spool.add(outcome)
    reading.spool.finish()
    tally.layout = feed.reader.layout
    # One bad record among the few that changed says nothing about the source.
    known = 0 if reading.complete or entry is None else int(entry["live"])
    tally.refuse_if_mostly_bad(feed.name, settings.max_quarantined_share, known)


def _outcomes(
    feed: Feed, reading: _Reading, entry: Mapping[str, Any] | None, *, whole: bool
) -> Iterator[Outcome]:
    source = feed.incremental
    if source is None:
        yield from feed.reader.read()
        return
    known = entry["watermark"] if entry is not None else None
    # A reader that was mended since reads everything again.
    same_reader = known is not None and known.get("options") == feed.options_digest
    since = known["position"] if known is not None and same_reader and not whole else None
    for number, outcome in enumerate(source.read_since(since), 1):
        if isinstance(outcome, Quarantined):
            yield outcome
        elif isinstance(outcome, AnnotationRow):
            yield checked(outcome, number)
        else:
            raise DataError(
                f"Source '{feed.name}' gave {type(outcome).__name__} at position {number}; its read_since() "
                "must yield AnnotationRow."
            )
    reading.watermark = {"options": feed.options_digest, "position": source.watermark}
    reading.complete = source.complete
    if isinstance(source, WholeRecordSource) and not source.complete:
        reading.whole_records = source.whole_records


class _Forgotten:
    """The names that must stay out, known by their digests alone."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._digests = {
            kind: {r.digest for r in rules if r.kind == kind} for kind in ("record", "annotator")
        }

    def __bool__(self) -> bool:
        return any(self._digests.values())

    def __contains__(self, row: AnnotationRow) -> bool:
        return (
            sha256_of(row.record_id) in self._digests["record"]
            or sha256_of(row.annotator) in self._digests["annotator"]
        )


def _commit(feed: Feed, reading: _Reading, seen: Head, url: str, folder: Path) -> SourceChange | None:
    """Write the difference, or return None if the source has to be read again."""
    for attempt in range(_ATTEMPTS):
        table = open_or_create(url)
        head = head_of(table)
        entry = head.sources.get(feed.key)
        if entry != seen.sources.get(feed.key) or head.rules != seen.rules:
            return None
        reread = identities_of(table, feed.key, reading.whole_records)
        with _stored_keys(table, feed.key, folder / f"stored-{attempt}") as stored:
            delta = _difference(reading, stored, reread, one_each=feed.incremental is not None)
        tally = _without_repeated(reading, delta.repeated)
        change = SourceChange(
            feed.name,
            feed.key,
            True,
            delta.live,
            delta.new,
            delta.edited,
            len(delta.tombstones),
            delta.live - delta.new - delta.edited,
            reading.kept_out,
            tally.as_data(),
            tuple(reading.quarantined),
        )
        if (
            entry is not None
            and reading.watermark in (None, entry["watermark"])
            and not delta.puts
            and not len(delta.tombstones)
        ):
            said = change.tally if reading.complete else entry["tally"]
            return replace(change, committed=False, tally=said)
        batch = uuid.uuid4().hex
        metadata = {
            "action": "ingest",
            "batch": batch,
            "last_sequence": head.last_sequence + delta.puts + len(delta.tombstones),
            "sources": {feed.key: _entry(change, reading, delta.digest)},
        }
        about = RowsOfCommit(feed.key, batch)
        if append(table, _batches(reading.spool, delta, about, head.last_sequence + 1), metadata):
            return change
        time.sleep(random.uniform(0, _PAUSE_SECONDS * 2 ** min(attempt, 6)))
    raise LedgerError(f"The ledger at {url} is written to without pause; run the ingest again later.")


def _without_repeated(reading: _Reading, repeated: np.ndarray) -> Tally:
    """Counts of what was read, each row once: that it is repeated shows only when all have been read."""
    if not len(repeated):
        return reading.tally
    tally = replace(
        reading.tally,
        rows=reading.tally.rows - len(repeated),
        repeated=len(repeated),
        kinds=reading.tally.kinds.copy(),
        statuses=reading.tally.statuses.copy(),
    )
    mask = np.zeros(reading.spool.rows, bool)
    mask[repeated] = True
    for _, rows in reading.spool.chosen(mask.__getitem__):
        tally.kinds.subtract(rows["kind"].to_pylist())
        tally.statuses.subtract(rows["status"].to_pylist())
    tally.kinds, tally.statuses = +tally.kinds, +tally.statuses
    return tally


def _entry(change: SourceChange, reading: _Reading, digest: str) -> dict[str, Any]:
    return {
        "name": change.name,
        "watermark": reading.watermark,
        "digest": digest,
        "live": change.live,
        "counts": {
            "new": change.new,
            "edited": change.edited,
            "retracted": change.retracted,
            "unchanged": change.unchanged,
            "kept_out": change.kept_out,
            "quarantined": reading.tally.quarantined,
        },
        "tally": change.tally,
    }


def _stored_keys(table: DeltaTable, source_key: str, folder: Path) -> KeyParts:
    parts = KeyParts(folder, STORED)
    for batch in scan(table, [source_key]).to_batches():
        if len(batch):
            parts.add(stored_keys(batch))
    return parts


@dataclass(frozen=True)
class _Delta:
    """The difference of all parts together."""

    positions: Positions
    """Which of the rows that were read are put, and where."""
    tombstones: np.ndarray
    digest: str
    live: int
    new: int
    edited: int
    repeated: np.ndarray

    @property
    def puts(self) -> int:
        return self.new + self.edited


def _difference(reading: _Reading, stored: KeyParts, reread: np.ndarray, *, one_each: bool) -> _Delta:
    # A byte a row: everything else is done range by range.
    positions = Positions(reading.spool.rows)
    digest = hashlib.sha256()
    live = new = edited = 0
    tombstones, repeated = [np.zeros(0, STORED)], [np.zeros(0, np.int64)]
    for incoming, known in ranges(reading.spool.keys, stored):
        live_before = latest(known)
        changes = compare(
            incoming,
            live_before,
            complete=reading.complete,
            one_each=one_each,
            reread=_among(reread, live_before),
        )
        # The ranges are in the order of identities, so this is the digest of all rows in that order.
        update_digest(digest, changes.state)
        live += len(changes.state)
        new += changes.new
        edited += changes.edited
        positions.put(changes.rows, changes.positions)
        if len(changes.tombstones):
            tombstones.append(changes.tombstones)
        if len(changes.repeated):
            repeated.append(changes.repeated)
    return _Delta(
        positions,
        np.concatenate(tombstones),
        digest.hexdigest(),
        live,
        new,
        edited,
        np.concatenate(repeated),
    )


def _among(identities: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Of sorted identities those that lie between the first and the last of some keys, so that each range is
    compared with its own."""
    if not len(keys):
        return identities[:0]
    first = np.searchsorted(identities["id0"], keys["id0"].min(), "left")
    last = np.searchsorted(identities["id0"], keys["id0"].max(), "right")
    return identities[first:last]


def _batches(
    spool: Spool, delta: _Delta, about: RowsOfCommit, first_sequence: int
) -> Iterator[pa.RecordBatch]:
    """Puts in the source's order, then tombstones, numbered from ``first_sequence``."""
    sequence = first_sequence
    for numbers, rows in spool.chosen(delta.positions.are_put):
        yield about.puts(rows, delta.positions.of(numbers), sequence)
        sequence += len(numbers)
    if len(delta.tombstones):
        yield about.tombstones(delta.tombstones, sequence)
