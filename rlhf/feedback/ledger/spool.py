"""What one reading of a source gave, on disk until it is committed, so that memory does not grow with the
source: the rows in one file, and their keys in files by the first bits of the identity, each of which can be
compared with the ledger's keys by itself."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
import pyarrow as pa

from rlhf.feedback.ledger.keys import identity_of, words_of_hashes, words_of_identities
from rlhf.feedback.rows import ROW_SCHEMA, AnnotationRow, to_batch

PARTS = 64
_PART_BITS = 6
_COMPARED_AT_ONCE = 1 << 14
_BATCH_ROWS = 4096
_NOT_PUT = -1

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
        for part, chunk in enumerate(_by_bits(keys, 0, _PART_BITS)):
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


def ranges(incoming: KeyParts, stored: KeyParts) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The keys of both by ranges of identities, in the identities' order: a comparison takes many times the
    memory of what it compares, so ranges are as small however many keys there are."""
    for part in range(PARTS):
        both = incoming.read(part), stored.read(part)
        times = max(map(len, both)) // _COMPARED_AT_ONCE
        yield from zip(*(_by_bits(keys, _PART_BITS, times.bit_length()) for keys in both), strict=True)


def _by_bits(keys: np.ndarray, skipped: int, bits: int) -> list[np.ndarray]:
    """Keys by the bits of their identities that come after the first ``skipped``, 2^``bits`` groups in order;
    each keeps the order in which its keys are given."""
    if not bits:
        return [keys]
    groups = ((keys["id0"] << np.uint64(skipped)) >> np.uint64(64 - bits)).astype(np.int64)
    order = np.argsort(groups, kind="stable")
    ends = np.cumsum(np.bincount(groups, minlength=1 << bits))
    return np.split(keys[order], ends[:-1])


class Positions:
    """Of each row of a spool the position at which it is put, in as few bytes as they take: one, as long as
    no identity has more than 128 rows."""

    def __init__(self, rows: int) -> None:
        self._of = np.full(rows, _NOT_PUT, np.int8)

    def put(self, rows: np.ndarray, positions: np.ndarray) -> None:
        """Rows, by their numbers, that are put."""
        wider = np.result_type(self._of.dtype, np.min_scalar_type(-1 - int(positions.max(initial=0))))
        self._of = self._of.astype(wider, copy=False)
        self._of[rows] = positions

    def are_put(self, rows: slice) -> np.ndarray:
        """Whether each of some rows is put."""
        put: np.ndarray = self._of[rows] != _NOT_PUT
        return put

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The positions of rows that are put, by their numbers."""
        return self._of[rows]


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

    def chosen(self, mask: Callable[[slice], np.ndarray]) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        """Some rows in batches, each with the numbers of its rows.

        Args:
            mask: whether each of a slice of all rows is wanted.
        """
        with pa.OSFile(str(self._file)) as source, pa.ipc.open_file(source) as reader:
            first = 0
            for number in range(reader.num_record_batches):
                end = first + min(_BATCH_ROWS, self.rows - first)
                own = np.flatnonzero(mask(slice(first, end)))
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
