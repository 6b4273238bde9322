"""Parquet files of the ledger's table. They are written here rather than by ``deltalake``, whose writer holds
a partition's rows until it is done: memory would grow with the source."""

import json
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler
from deltalake.transaction import AddAction, RemoveAction
from pyarrow import fs

ROWS_PER_FILE = 1 << 18
_ROWS_PER_GROUP = 1 << 15


@dataclass(frozen=True)
class StoredFile:
    """A file that is part of the table."""

    path: str
    bytes: int
    rows: int
    source_key: str
    first_sequence: int


def files_of(table: DeltaTable) -> list[StoredFile]:
    """All files of the table in the order of their rows."""
    actions = pa.table(table.get_add_actions(flatten=True))
    columns = ("path", "size_bytes", "num_records", "partition.source_key", "min.ledger_seq")
    files = zip(*(actions[name].to_pylist() for name in columns), strict=True)
    return sorted((StoredFile(*file) for file in files), key=lambda file: file.first_sequence)


def holds(table: DeltaTable, path: str, rows: ds.Expression) -> bool:
    """Whether any of a file's rows is one of ``rows``."""
    return _dataset(table, path).count_rows(filter=rows) > 0


def discard(table: DeltaTable, paths: Iterable[str]) -> None:
    """Delete files that are no part of the table; those that are gone already are passed over."""
    store = _store(table)
    for path in paths:
        with suppress(FileNotFoundError):
            store.delete_file(path)


def read_beside(table: DeltaTable, path: str) -> str | None:
    """A text in the table's folder that is no part of the table; None if there is none."""
    try:
        with _store(table).open_input_file(path) as stream:
            return bytes(stream.read()).decode()
    except FileNotFoundError:
        return None


def write_beside(table: DeltaTable, path: str, text: str) -> None:
    """Keep a text in the table's folder."""
    content = text.encode()
    # Without a buffer Arrow hands its own type to the store, which takes bytes only.
    with _store(table).open_output_stream(path, buffer_size=len(content) + 1) as stream:
        stream.write(content)


def rewritten(
    table: DeltaTable, files: Iterable[StoredFile], keep: ds.Expression | None, schema: pa.Schema
) -> list[AddAction | RemoveAction]:
    """Write the rows of files anew, all or those to keep, as they stand.

    ``deltalake`` could do both itself, but leaves files of a view type behind that Arrow cannot filter.

    Returns:
        What a transaction has to add and to remove.
    """
    files = list(files)

    def batches() -> Iterator[pa.RecordBatch]:
        for file in files:
            for batch in _dataset(table, file.path).to_batches(filter=keep):
                key = pa.repeat(pa.scalar(file.source_key), len(batch))
                filled = batch.append_column("source_key", key)
                yield pa.RecordBatch.from_arrays([filled[name] for name in schema.names], schema=schema)

    same = keep is None
    now = int(time.time() * 1000)
    added = write_files(table, batches(), data_change=not same)
    removed = [
        RemoveAction(file.path, not same, now, file.bytes, {"source_key": file.source_key}) for file in files
    ]
    return [*added, *removed]


def _dataset(table: DeltaTable, path: str) -> ds.Dataset:
    return ds.dataset(path, filesystem=_store(table), format="parquet", partitioning=None)


def _store(table: DeltaTable) -> fs.FileSystem:
    return fs.PyFileSystem(DeltaStorageHandler.from_table(table._table))


def write_files(
    table: DeltaTable, batches: Iterable[pa.RecordBatch], *, data_change: bool = True
) -> list[AddAction]:
    """Write batches, each of a single source, to new files that are no part of the table yet.

    Args:
        table: where they will belong.
        batches: rows with all columns; those of one source stand together.
        data_change: whether the rows are new to the table.

    Returns:
        What a transaction has to add.
    """
    store = _store(table)
    added: list[AddAction] = []
    for key, own in groupby((batch for batch in batches if len(batch)), _source_key):
        rest = iter(own)
        for first in rest:
            added.append(_write_file(store, key, first, rest, data_change))
    return added


def _source_key(batch: pa.RecordBatch) -> str:
    return str(batch["source_key"][0])


def _write_file(
    store: fs.FileSystem,
    key: str,
    first: pa.RecordBatch,
    more: Iterator[pa.RecordBatch],
    data_change: bool,
) -> AddAction:
    """Write batches until the file is large enough."""
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
            batch = next(more, None) if rows < ROWS_PER_FILE else None
        if group:
            writer.write_table(pa.Table.from_batches(group))
    size = store.get_file_info(path).size
    stats = {
        "numRecords": rows,
        "minValues": {"ledger_seq": low},
        "maxValues": {"ledger_seq": high},
        "nullCount": {"ledger_seq": 0},
    }
    return AddAction(path, size, {"source_key": key}, int(time.time() * 1000), data_change, json.dumps(stats))
