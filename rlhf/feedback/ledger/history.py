"""Questions to the ledger: what happened, all versions of a record, and what differs between two states."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable

from rlhf.feedback.ledger.batches import stored_keys
from rlhf.feedback.ledger.spool import sorted_by, starts
from rlhf.feedback.ledger.state import live_keys
from rlhf.feedback.ledger.table import KEY_COLUMNS, PUT, Commit, Rule, commits, open_table
from rlhf.feedback.rows import sha256_of

Kind = Literal["record", "annotator"]

_VERSION_COLUMNS = [
    *("source_key", "identity", "position", "ledger_seq", "operation", "row_hash", "ingested_at"),
    *("record_id", "question", "annotator", "kind", "status", "value", "updated_at", "prompt", "responses"),
]


@dataclass(frozen=True)
class Version:
    """One version of a row: it counted from ``first`` up to, and without, ``end``."""

    source_key: str
    first: int
    end: int | None
    """The sequence number of its next version or tombstone; None while it counts."""
    ingested_at: datetime
    row: Mapping[str, Any]

    def counts_at(self, sequence: int) -> bool:
        """Whether it is part of the state at a sequence number."""
        return self.first <= sequence and (self.end is None or sequence < self.end)


@dataclass(frozen=True)
class Difference:
    """Rows in which two states of one source differ."""

    source_key: str
    added: int
    edited: int
    removed: int
    unchanged: int


def log(url: str) -> list[Commit]:
    """All transactions, newest first.

    Raises:
        LedgerError: there is no ledger, or it cannot be reached.
    """
    return commits(open_table(url))


def rules(url: str) -> list[Rule]:
    """Everything that was told to stay out, oldest first."""
    return [rule for commit in reversed(log(url)) for rule in commit.rules]


def versions(url: str, kind: Kind, name: str, source_key: str | None = None) -> list[Version]:
    """Every version of a record's rows, or of an annotator's, in the order in which they came in.

    Args:
        url: the ledger.
        kind: what ``name`` is.
        name: a record's id, or an annotator.
        source_key: only rows of this source; by default of all.
    """
    table = open_table(url)
    wanted = ds.field("record_id" if kind == "record" else "annotator") == name
    if source_key is not None:
        wanted &= ds.field("source_key") == source_key
    found = table.to_pyarrow_dataset().to_table(columns=_VERSION_COLUMNS, filter=wanted)
    if not len(found):
        return []
    ends = _ends(table, found)
    rows = found.sort_by("ledger_seq").to_pylist()
    return [
        Version(
            row.pop("source_key"),
            first := row.pop("ledger_seq"),
            ends.get(first),
            row.pop("ingested_at"),
            row,
        )
        for row in rows
    ]


def _ends(table: DeltaTable, found: pa.Table) -> dict[int, int]:
    """The sequence number that superseded each of the found rows."""
    keys = sorted(set(found["source_key"].to_pylist()))
    ends: dict[int, int] = {}
    for key in keys:
        chosen = (ds.field("source_key") == key) & ds.field("identity").isin(pc.unique(found["identity"]))
        all_versions = table.to_pyarrow_dataset().to_table(columns=KEY_COLUMNS, filter=chosen)
        stored = [stored_keys(batch) for batch in all_versions.to_batches() if len(batch)]
        ordered = sorted_by(np.concatenate(stored), "id0", "id1", "position", "seq")
        same = ~starts(ordered, ("id0", "id1", "position"))[1:]
        sequences = ordered["seq"]
        ends |= dict(zip(sequences[:-1][same].tolist(), sequences[1:][same].tolist(), strict=True))
    return ends


def lifetimes(url: str, kind: Kind, name: str) -> list[tuple[str, int, int | None]]:
    """Source key, first sequence and first sequence no more, of all that a record or an annotator ever had
    in the ledger, what was erased included."""
    erased = [
        span
        for rule in rules(url)
        if (rule.kind, rule.digest) == (kind, sha256_of(name))
        for span in rule.lifetimes
    ]
    return [
        *erased,
        *((version.source_key, version.first, version.end) for version in versions(url, kind, name)),
    ]


def diff(url: str, before: int, after: int, source_keys: Sequence[str] | None = None) -> list[Difference]:
    """What changed between two sequence numbers, by source."""
    table = open_table(url)
    if source_keys is None:
        source_keys = sorted({key for commit in commits(table) for key in commit.sources})
    return [
        _difference(key, live_keys(table, [key], before), live_keys(table, [key], after))
        for key in source_keys
    ]


def changed_rows(url: str, before: int, after: int, most: int) -> list[dict[str, Any]]:
    """The first rows that were put between two sequence numbers."""
    chosen = (
        (ds.field("ledger_seq") > before) & (ds.field("ledger_seq") <= after) & (ds.field("operation") == PUT)
    )
    scanner = open_table(url).to_pyarrow_dataset().scanner(columns=_VERSION_COLUMNS, filter=chosen)
    rows: list[dict[str, Any]] = scanner.head(most).to_pylist()
    return rows


def _difference(source_key: str, before: np.ndarray, after: np.ndarray) -> Difference:
    both = sorted_by(np.concatenate([before, after]), "id0", "id1", "position", "seq")
    pair = ~starts(both, ("id0", "id1", "position"))[1:]
    equal = int((pair & (both["seq"][1:] == both["seq"][:-1])).sum())
    kept = int(pair.sum())
    return Difference(source_key, len(after) - kept, kept - equal, len(before) - kept, equal)
