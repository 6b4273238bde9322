"""Taking a record or an annotator out. Forgetting ends their rows and keeps them out of every later ingest;
erasing also removes what the table's files and history still hold of them. Neither keeps the name: a digest
is enough to recognise it when it comes again."""

import logging
import random
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable

from rlhf.errors import LedgerError
from rlhf.feedback.ledger.batches import RowsOfCommit
from rlhf.feedback.ledger.files import discard, files_of, holds, rewritten
from rlhf.feedback.ledger.history import Kind, Version, lifetimes, versions
from rlhf.feedback.ledger.settings import is_remote
from rlhf.feedback.ledger.state import digest_of, live_keys
from rlhf.feedback.ledger.table import (
    LEDGER_SCHEMA,
    Head,
    Rule,
    append,
    canonical_url,
    commit_files,
    head_of,
    open_table,
)
from rlhf.feedback.rows import sha256_of

logger = logging.getLogger(__name__)

_ATTEMPTS = 20
_PAUSE_SECONDS = 0.05


@dataclass(frozen=True)
class Forgotten:
    """What a record or an annotator had in the ledger."""

    live: int
    """Rows that counted until now."""
    spans: tuple[tuple[str, int, int | None], ...]
    """Source key, first sequence and first sequence no more of every version."""


def forget(url: str, kind: Kind, name: str, by: str) -> Forgotten:
    """End all rows of a record or an annotator with tombstones, and keep them out of every later ingest.

    Args:
        url: the ledger.
        kind: what ``name`` is.
        name: a record's id, or an annotator.
        by: who asks, for the ledger's history.

    Raises:
        LedgerError: there is no ledger, or nothing of that name was ever in it.
    """
    return _forget(canonical_url(url), kind, name, by, erased=False)


def erase(url: str, kind: Kind, name: str, by: str) -> Forgotten:
    """Forget, and remove every version's content from the table's files and history.

    Files of earlier versions, and of ingests that broke off, are deleted if they hold a row of the name or
    cannot be read. An ingest at the same time loses nothing: what it read before the name was forgotten is
    refused by the table, and read again. When an erasure breaks off, the name is forgotten already and a
    second call finishes.

    Raises:
        LedgerError: there is no ledger, nothing of that name was ever in it, or the table is written to
            without pause.
    """
    url = canonical_url(url)
    forgotten = _forget(url, kind, name, by, erased=True)
    rows = ds.field("record_id" if kind == "record" else "annotator") == name
    _delete(url, rows)
    _delete_leftovers(url, rows)
    return forgotten


def _forget(url: str, kind: Kind, name: str, by: str, *, erased: bool) -> Forgotten:
    for attempt in range(_ATTEMPTS):
        table = open_table(url)
        head = head_of(table)
        found = versions(url, kind, name)
        spans = tuple(lifetimes(url, kind, name))
        if not spans:
            raise LedgerError(
                f"The ledger at {url} never had the {kind} {name!r}; `rlhf feedback show` lists records."
            )
        if open_table(url).version() != table.version():
            continue
        live = [version for version in found if version.end is None]
        known = any(
            (rule.kind, rule.digest, rule.erased) == (kind, sha256_of(name), erased) for rule in head.rules
        )
        if (known and not live) or _end(table, head, _rule(kind, name, by, found, head, erased), live):
            return Forgotten(len(live), spans)
        time.sleep(random.uniform(0, _PAUSE_SECONDS * 2 ** min(attempt, 6)))
    raise LedgerError(f"The ledger at {url} is written to without pause; try again later.")


def _rule(kind: Kind, name: str, by: str, found: Sequence[Version], head: Head, erased: bool) -> Rule:
    spans = tuple((v.source_key, v.first, v.end or head.last_sequence + 1) for v in found) if erased else ()
    return Rule(kind, sha256_of(name), datetime.now(UTC).isoformat(timespec="seconds"), by, erased, spans)


def _end(table: DeltaTable, head: Head, rule: Rule, live: Sequence[Version]) -> bool:
    """One transaction with the rule and the tombstones."""
    batch = uuid.uuid4().hex
    gone = np.array([version.first for version in live], np.int64)
    sequence = head.last_sequence
    batches: list[pa.RecordBatch] = []
    sources = {}
    for key in sorted({version.source_key for version in live}):
        keys = live_keys(table, [key])
        ending = np.isin(keys["seq"], gone)
        batches.append(RowsOfCommit(key, batch).tombstones(keys[ending], sequence + 1))
        sequence += int(ending.sum())
        sources[key] = {"digest": digest_of(keys[~ending]), "live": int((~ending).sum())}
    metadata = {
        "action": "erase" if rule.erased else "forget",
        "batch": batch,
        "last_sequence": sequence,
        "sources": sources,
        "rules": [asdict(rule)],
    }
    return append(table, batches, metadata)


def _delete(url: str, rows: ds.Expression) -> None:
    """Write all files that have such rows anew without them."""
    for attempt in range(_ATTEMPTS):
        table = open_table(url)
        files = [file for file in files_of(table) if holds(table, file.path, rows)]
        # A comparison with a tombstone's null is null, and would drop the tombstone.
        keep = rows.is_null() | ~rows
        if not files or commit_files(table, rewritten(table, files, keep, LEDGER_SCHEMA)):
            return
        time.sleep(random.uniform(0, _PAUSE_SECONDS * 2 ** min(attempt, 6)))
    raise LedgerError(f"The ledger at {url} is written to without pause; erase again later.")


def _delete_leftovers(url: str, rows: ds.Expression) -> None:
    """Delete the files outside the table's present version that have such rows: those of earlier versions,
    from which the table's own time travel would bring them back, and those of ingests that broke off."""
    table = open_table(url)
    outside = table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=True, full=True)
    discard(table, [path for path in outside if _may_hold(table, path, rows)])
    if not is_remote(url):
        # What a killed process had not finished; the store does not list these.
        for unfinished in Path(url).glob("source_key=*/*.parquet#*"):
            unfinished.unlink(missing_ok=True)


def _may_hold(table: DeltaTable, path: str, rows: ds.Expression) -> bool:
    try:
        return holds(table, path, rows)
    except (OSError, pa.ArrowInvalid):  # gone meanwhile, or not a whole file
        return True
