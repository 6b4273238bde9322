"""Rows as the ledger's columns hold them, and their keys read back from there."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from rlhf.feedback.ledger.keys import IDENTITY_BYTES, identity_column, words_of_hashes
from rlhf.feedback.ledger.spool import STORED, key_array
from rlhf.feedback.ledger.table import LEDGER_SCHEMA, PUT, TOMBSTONE
from rlhf.feedback.rows import ROW_SCHEMA

_NO_HASH = "0" * 64


@dataclass(frozen=True)
class RowsOfCommit:
    """What the rows of one source in one transaction share."""

    source_key: str
    batch: str
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def puts(self, rows: pa.RecordBatch, positions: np.ndarray, first_sequence: int) -> pa.RecordBatch:
        """New versions from spooled rows."""
        columns = {name: rows[name] for name in ("identity", *ROW_SCHEMA.names)}
        columns["position"] = pa.array(positions, pa.int32())
        return self._filled(columns, PUT, first_sequence)

    def tombstones(self, keys: np.ndarray, first_sequence: int) -> pa.RecordBatch:
        """The end of stored keys; a tombstone holds nothing of what it ends."""
        words = np.column_stack([keys["id0"], keys["id1"]]).astype(">u8").tobytes()
        identities = [words[at : at + IDENTITY_BYTES] for at in range(0, len(words), IDENTITY_BYTES)]
        columns = {
            "identity": pa.array(identities, pa.binary()),
            "position": pa.array(keys["position"], pa.int32()),
            **{own.name: pa.nulls(len(keys), own.type) for own in ROW_SCHEMA},
        }
        return self._filled(columns, TOMBSTONE, first_sequence)

    def _filled(self, columns: Mapping[str, pa.Array], operation: str, first: int) -> pa.RecordBatch:
        size = len(columns["identity"])

        def repeated(name: str, value: Any) -> pa.Array:
            return pa.repeat(pa.scalar(value, LEDGER_SCHEMA.field(name).type), size)

        filled = {
            **columns,
            "ledger_seq": pa.array(np.arange(first, first + size)),
            "source_key": repeated("source_key", self.source_key),
            "operation": repeated("operation", operation),
            "batch": repeated("batch", self.batch),
            "ingested_at": repeated("ingested_at", self.at),
        }
        return pa.RecordBatch.from_arrays([filled[n] for n in LEDGER_SCHEMA.names], schema=LEDGER_SCHEMA)


def stored_keys(batch: pa.RecordBatch) -> np.ndarray:
    """Keys of ``STORED`` from a batch of :data:`~rlhf.feedback.ledger.table.KEY_COLUMNS`."""
    keys = key_array(
        STORED,
        identity_column(batch["identity"]),
        words_of_hashes([row_hash or _NO_HASH for row_hash in batch["row_hash"].to_pylist()]),
    )
    keys["position"] = batch["position"].to_numpy(zero_copy_only=False)
    keys["seq"] = batch["ledger_seq"].to_numpy(zero_copy_only=False)
    keys["put"] = [operation == PUT for operation in batch["operation"].to_pylist()]
    return keys
