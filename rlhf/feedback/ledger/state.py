"""The rows that count at a sequence number, rebuilt from the rows themselves: the latest version of each
identity up to there, without those that end in a tombstone. The table's own time travel is not used, as
vacuuming ends it."""

import hashlib
from collections.abc import Sequence
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable

from rlhf.errors import DataError, LedgerError
from rlhf.feedback.ledger.batches import stored_keys
from rlhf.feedback.ledger.changes import latest
from rlhf.feedback.ledger.keys import WORDS, update_digest
from rlhf.feedback.ledger.reference import LedgerRef
from rlhf.feedback.ledger.spool import STORED, sorted_by
from rlhf.feedback.ledger.table import canonical_url, head_of, open_table, scan
from rlhf.feedback.rows import ROW_SCHEMA, sha256_of

_ORDER = ("record_id", "question", "annotator", "kind", "row_hash")


def read_state(reference: LedgerRef) -> pa.Table:
    """Annotation rows of a state.

    Returns:
        Rows of ``ROW_SCHEMA``: sources in the reference's order, within each by record, question, annotator
        and content, so in an order that does not show when they came in. Identical rows of several sources
        are there once.

    Raises:
        LedgerError: the ledger is gone or unreachable, or it no longer holds this state because rows of it
            were erased.
    """
    table = open_table(reference.url)
    live = [live_keys(table, [key], reference.sequence) for key in reference.source_keys]
    if combined(live) != reference.state_digest:
        raise LedgerError(
            f"The ledger at {reference.url} no longer holds the feedback as it was at sequence "
            f"{reference.sequence}, as rows of it were erased; start a new run, which reads the present "
            "state."
        )
    return pa.concat_tables(
        [
            _unseen(rows_at(table, key, keys["seq"]), live[:position])
            for position, (key, keys) in enumerate(zip(reference.source_keys, live, strict=True))
        ]
    )


def reference_at(url: str, source_keys: tuple[str, ...], sequence: int) -> LedgerRef:
    """The state of some sources at a sequence number, as it can be rebuilt now.

    Raises:
        DataError: they had no row that counts.
        LedgerError: there is no ledger, or it has not come so far.
    """
    url = canonical_url(url)
    table = open_table(url)
    last = head_of(table).last_sequence
    if sequence > last:
        raise LedgerError(
            f"feedback.ledger.sequence: the ledger at {url} stands at {last}, before the {sequence} that is "
            "asked for; give a number up to there, or leave it out to read the sources."
        )
    live = [live_keys(table, [key], sequence) for key in source_keys]
    if not any(len(keys) for keys in live):
        raise DataError(
            f"No row of the config's sources counts at sequence {sequence} of {url}; check feedback.sources "
            "and feedback.ledger.sequence."
        )
    return LedgerRef(url, sequence, source_keys, combined(live))


def head_of_state(reference: LedgerRef, most: int) -> pa.Table:
    """The first ``most`` rows that came in of those that count, in the order in which they did."""
    table = open_table(reference.url)
    live = [live_keys(table, [key], reference.sequence) for key in reference.source_keys]
    first = np.sort(np.concatenate([keys["seq"] for keys in live]))[:most]
    chosen = ds.field("ledger_seq").isin(first)
    found = table.to_pyarrow_dataset().to_table(columns=["ledger_seq", *ROW_SCHEMA.names], filter=chosen)
    return found.sort_by("ledger_seq").select(ROW_SCHEMA.names)


def live_keys(table: DeltaTable, source_keys: Sequence[str], upto: int | None = None) -> np.ndarray:
    """Keys of ``STORED`` of the rows that count, sorted by identity."""
    batches = [stored_keys(batch) for batch in scan(table, source_keys, upto).to_batches() if len(batch)]
    return latest(np.concatenate([np.zeros(0, STORED), *batches]))


def combined(live: Sequence[np.ndarray]) -> str:
    """The digest of a state from the live keys of its sources."""
    return sha256_of(sorted(digest_of(keys) for keys in live))


def digest_of(live: np.ndarray) -> str:
    """The digest of one source's live keys."""
    digest = hashlib.sha256()
    update_digest(digest, sorted_by(live, *WORDS))
    return digest.hexdigest()


def rows_at(table: DeltaTable, source_key: str, sequences: np.ndarray) -> pa.Table:
    """Rows of ``ROW_SCHEMA`` of one source by their sequence numbers, in the order of :func:`read_state`."""
    wanted = np.sort(sequences)
    chosen = ds.field("source_key") == source_key
    if len(wanted):
        chosen &= (ds.field("ledger_seq") >= int(wanted[0])) & (ds.field("ledger_seq") <= int(wanted[-1]))
    scanner = table.to_pyarrow_dataset().scanner(columns=["ledger_seq", *ROW_SCHEMA.names], filter=chosen)
    parts = []
    for batch in scanner.to_batches() if len(wanted) else islice((), 0):
        own = batch["ledger_seq"].to_numpy()
        kept = wanted[np.minimum(np.searchsorted(wanted, own), len(wanted) - 1)] == own
        parts.append(batch.filter(pa.array(kept)).select(ROW_SCHEMA.names))
    rows = pa.Table.from_batches(parts, schema=ROW_SCHEMA)
    return rows.sort_by([(name, "ascending") for name in _ORDER])


def _unseen(rows: pa.Table, earlier: Sequence[np.ndarray]) -> pa.Table:
    """Rows without those whose content an earlier source has."""
    if not earlier or not len(rows):
        return rows
    seen = np.unique(np.concatenate([keys["h0"] for keys in earlier]))
    own = pc.utf8_slice_codeunits(rows["row_hash"], 0, 16).to_pylist()
    words = np.array([int(text, 16) for text in own], np.uint64)
    return rows.filter(pa.array(~np.isin(words, seen)))


def live_counts(reference: LedgerRef) -> dict[str, int]:
    """How many rows of each source count."""
    table = open_table(reference.url)
    return {key: len(live_keys(table, [key], reference.sequence)) for key in reference.source_keys}
