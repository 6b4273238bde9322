"""Who a row is, apart from what it says, as numbers that a million rows can be compared by.

An identity is 16 bytes, kept as two big-endian words, as are the first 16 bytes of a row's SHA-256. Both are
functions of the row alone, so equal feedback has equal numbers in every ledger.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from rlhf.feedback.rows import AnnotationRow

IDENTITY_BYTES = 16
IDENTITY = np.dtype([("id0", "u8"), ("id1", "u8")])
"""The words of an identity in arrays of keys."""
WORDS = ("id0", "id1", "h0", "h1")
"""Fields of the words of identity and content in arrays of keys."""


def identity_of(row: AnnotationRow) -> bytes:
    """Digest of record, question, annotator and kind: what stays when an annotator changes their mind."""
    # Lengths in front keep ("a", "bc") apart from ("ab", "c").
    parts = (row.record_id, row.question, row.annotator, row.kind)
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.blake2b(text.encode(), digest_size=IDENTITY_BYTES).digest()


def words_of_identities(identities: bytes | memoryview) -> np.ndarray:
    """Concatenated identities as an array of shape (n, 2), most significant word first."""
    return np.frombuffer(identities, dtype=">u8").reshape(-1, 2).astype(np.uint64)


def words_of_hashes(row_hashes: Sequence[str]) -> np.ndarray:
    """The first 16 bytes of hex digests as an array of shape (n, 2)."""
    whole = np.frombuffer(bytes.fromhex("".join(row_hashes)), dtype=">u8")
    return whole.reshape(-1, 4)[:, :2].astype(np.uint64)


def identity_column(column: pa.Array) -> np.ndarray:
    """A binary column of identities as an array of shape (n, 2)."""
    fixed = column.cast(pa.binary(IDENTITY_BYTES))
    start = fixed.offset * IDENTITY_BYTES
    return words_of_identities(memoryview(fixed.buffers()[1])[start : start + len(fixed) * IDENTITY_BYTES])


def update_digest(digest: "hashlib._Hash", keys: np.ndarray) -> None:
    """Add rows to a digest of content.

    Args:
        digest: SHA-256 over all rows in the order of identity and content.
        keys: words of rows in this order that come after all those added before.
    """
    digest.update(np.column_stack([keys[name] for name in WORDS]).astype(">u8").tobytes())
