"""What one reading of a source gave, on disk until it is committed, so that memory does not grow with the
source: the rows in one file, and their keys in files by the first bits of the identity, each of which can be
compared with the ledger's keys by itself."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
import pyarrow as pa

from rlhf.feedback.ledger.keys import identity_of, words_of_hashes, words_of_identities
from rlhf.feedback.rows import ROW_SCHEMA, AnnotationRow, to_batch

PARTS = 64
_SHIFT = np.uint64(58)
_BATCH_ROWS = 4096

_KEY = [("id0", "u8"), ("id1", "u8"), ("h0", "u8"), ("h1", "u8")]
INCOMING = np.dtype([*_KEY, ("row", "i8")])
"""Identity, content and number of a row that came in."""
STORED = np.dtype([*_KEY, ("position", "i4"), ("put", "i4"), ("seq", "i8")])
"""Identity, content and place of a row in the ledger; ``put`` is 0 for a tombstone."""

_ROWS = pa.schema([("identity", pa.binary()), *ROW_SCHEMA])


def key_array(dtype: np.dtype, identities: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """An array of ``dtype`` with the words of identities and hashes filled in."""
    keys = np.zeros(len(identities), dtype)
    keys["id0"], keys["id1"] = identities[:, 0], identities[:, 1]
    keys["h0"], keys["h1"] = hashes[:, 0], hashes[:, 1]
    return keys


class KeyParts:
    """Arrays of keys, appended to ``PARTS`` files by identity: the parts are in the identities' order."""

    def __init__(self, folder: Path, dtype: np.dtype) -> None:
        folder.mkdir()
        self._folder = folder
        self._dtype = dtype
        self._files: dict[int, BinaryIO] = {}

    def add(self, keys: np.ndarray) -> None:
        """Append keys in any order."""
        parts = (keys["id0"] >> _SHIFT).astype(np.int64)
        order = np.argsort(parts, kind="stable")
        ends = np.cumsum(np.bincount(parts, minlength=PARTS))
        for part, chunk in enumerate(np.split(keys[order], ends[:-1])):
            if len(chunk):
                file = self._files.get(part)
                if file is None:
                    file = self._files[part] = (self._folder / str(part)).open("w+b")
                file.write(chunk.tobytes())

    def read(self, part: int) -> np.ndarray:
        """All keys of one part, in the order in which they were added."""
        file = self._files.get(part)
        if file is None:
            return np.zeros(0, self._dtype)
        file.flush()
        return np.fromfile(self._folder / str(part), self._dtype)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._files.values():
            file.close()


class Spool:
    """Rows of one source in the order in which they were read."""

    def __init__(self, folder: Path) -> None:
        self.keys = KeyParts(folder / "keys", INCOMING)
        self.rows = 0
        self._file = folder / "rows.arrow"
        # Compressed, the file is a tenth: the disk of a small machine is as short as its memory.
        self._writer = pa.ipc.new_file(
            str(self._file), _ROWS, options=pa.ipc.IpcWriteOptions(compression="lz4")
        )
        self._pending: list[AnnotationRow] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()
        self.keys.__exit__()

    def add(self, row: AnnotationRow) -> None:
        """Append a row."""
        self._pending.append(row)
        if len(self._pending) == _BATCH_ROWS:
            self._write()

    def finish(self) -> None:
        """No more rows will come."""
        self._write()
        self._writer.close()

    def _write(self) -> None:
        rows, self._pending = self._pending, []
        if not rows:
            return
        identities = [identity_of(row) for row in rows]
        keys = key_array(
            INCOMING,
            words_of_identities(b"".join(identities)),
            words_of_hashes([row.row_hash for row in rows]),
        )
        keys["row"] = np.arange(self.rows, self.rows + len(rows))
        self.keys.add(keys)
        columns = [pa.array(identities, pa.binary()), *to_batch(rows).columns]
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=_ROWS))
        self.rows += len(rows)

    def chosen(self, mask: np.ndarray) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        """Rows by a mask over all, in batches, each with the numbers of its rows."""
        with pa.OSFile(str(self._file)) as source, pa.ipc.open_file(source) as reader:
            first = 0
            for number in range(reader.num_record_batches):
                end = first + min(_BATCH_ROWS, self.rows - first)
                own = np.flatnonzero(mask[first:end])
                if len(own):
                    batch = reader.get_batch(number)
                    yield first + own, batch if len(own) == len(batch) else batch.take(pa.array(own))
                first = end


def sorted_by(keys: np.ndarray, *names: str) -> np.ndarray:
    """Keys sorted by fields, the most significant first."""
    return keys[np.lexsort([keys[name] for name in reversed(names)])]


def starts(keys: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Whether each of the sorted keys differs from the one before in any of the fields."""
    first = np.ones(len(keys), bool)
    if len(keys):
        first[1:] = np.logical_or.reduce([keys[name][1:] != keys[name][:-1] for name in names])
    return first
