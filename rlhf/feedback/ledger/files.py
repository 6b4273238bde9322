"""Parquet files of the ledger's table. They are written here rather than by ``deltalake``, whose writer holds
a partition's rows until it is done: memory would grow with the source."""

import json
import time
import uuid
from collections.abc import Iterable, Iterator
from itertools import groupby

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler
from deltalake.transaction import AddAction
from pyarrow import fs

_ROWS_PER_FILE = 1 << 18
_ROWS_PER_GROUP = 1 << 15


def write_files(table: DeltaTable, batches: Iterable[pa.RecordBatch]) -> list[AddAction]:
    """Write batches, each of a single source, to new files that are no part of the table yet.

    Returns:
        What a transaction has to add.
    """
    store = fs.PyFileSystem(DeltaStorageHandler.from_table(table._table))
    added: list[AddAction] = []
    for key, own in groupby((batch for batch in batches if len(batch)), _source_key):
        added += _write_source(store, key, own)
    return added


def _source_key(batch: pa.RecordBatch) -> str:
    return str(batch["source_key"][0])


def _write_source(store: fs.FileSystem, key: str, batches: Iterator[pa.RecordBatch]) -> Iterator[AddAction]:
    for batch in batches:
        yield _write_file(store, key, batch, batches)


def _write_file(
    store: fs.FileSystem, key: str, first: pa.RecordBatch, more: Iterator[pa.RecordBatch]
) -> AddAction:
    path = f"source_key={key}/{uuid.uuid4().hex}.parquet"
    # A partition's column stands in the path alone.
    schema = first.drop_columns(["source_key"]).schema
    low, high, rows = None, None, 0
    with (
        store.open_output_stream(path) as sink,
        pq.ParquetWriter(sink, schema, compression="zstd", compression_level=1) as writer,
    ):
        group: list[pa.RecordBatch] = []
        batch: pa.RecordBatch | None = first
        while batch is not None:
            group.append(batch.drop_columns(["source_key"]))
            rows += len(batch)
            bounds = pc.min_max(batch["ledger_seq"]).as_py()
            low = bounds["min"] if low is None else min(low, bounds["min"])
            high = bounds["max"] if high is None else max(high, bounds["max"])
            if sum(map(len, group)) >= _ROWS_PER_GROUP:
                writer.write_table(pa.Table.from_batches(group))
                group = []
            batch = next(more, None) if rows < _ROWS_PER_FILE else None
        if group:
            writer.write_table(pa.Table.from_batches(group))
    size = store.get_file_info(path).size
    stats = {
        "numRecords": rows,
        "minValues": {"ledger_seq": low},
        "maxValues": {"ledger_seq": high},
        "nullCount": {"ledger_seq": 0},
    }
    return AddAction(path, size, {"source_key": key}, int(time.time() * 1000), True, json.dumps(stats))
