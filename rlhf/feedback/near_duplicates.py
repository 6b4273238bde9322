"""Near-duplicates of evaluation texts among training texts: MinHash with locality-sensitive hashing proposes,
exact Jaccard similarity of character shingles decides. Nothing is clustered and nothing moves between
sides."""

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
from datasketch import MinHash, MinHashLSH

SHINGLE_CHARS = 5
"""Leskovec, Rajaraman, Ullman, *Mining of Massive Datasets*, section 3.2.2, use 5 for short texts."""

_PERMUTATIONS = 64
_MOST_CANDIDATES = 64
_MOST_MISSED = 0.01
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

Shingles = npt.NDArray[np.uint32]


def shingles(text: str) -> Shingles:
    """Sorted 32-bit hashes of the distinct runs of five characters of a text, without regard to case and
    spacing; a shorter text is one shingle."""
    codes = np.frombuffer(" ".join(text.casefold().split()).encode("utf-32-le"), dtype=np.uint32)
    if len(codes) < SHINGLE_CHARS:
        codes = np.pad(codes, (0, SHINGLE_CHARS - len(codes)))
    hashes = np.zeros(len(codes) - SHINGLE_CHARS + 1, dtype=np.uint64)
    for offset in range(SHINGLE_CHARS):
        hashes = (hashes ^ codes[offset : offset + len(hashes)]) * _MULTIPLIER
        hashes ^= hashes >> np.uint64(29)
    return np.unique((hashes >> np.uint64(32)).astype(np.uint32))


def jaccard(left: Shingles, right: Shingles) -> float:
    """Size of the intersection over size of the union."""
    shared = len(np.intersect1d(left, right, assume_unique=True))
    return shared / (len(left) + len(right) - shared)


def near_duplicates(
    training: Mapping[str, str], evaluation: Iterable[str], threshold: float
) -> frozenset[str]:
    """Keys of the training texts that are at least ``threshold`` similar to an evaluation text.

    Independent of the order of either side. A pair below the threshold is never reported; a pair at the
    threshold is missed with a probability of at most 1 % (from a threshold of 0.07 on), a more similar one
    more rarely.

    Args:
        training: texts by key.
        evaluation: texts of dev and test.
        threshold: Jaccard similarity of shingle sets in (0, 1].
    """
    held_out = [shingles(text) for text in sorted(set(evaluation))]
    if not held_out or not training:
        return frozenset()
    index = MinHashLSH(num_perm=_PERMUTATIONS, params=bands_and_rows(threshold))
    signatures = np.empty((len(held_out), _PERMUTATIONS), dtype=np.uint32)
    for number, hashes in enumerate(held_out):
        signature = _signature(hashes)
        signatures[number] = signature.hashvalues
        index.insert(number, signature, check_duplication=False)
    found = set()
    for key, text in training.items():
        hashes = shingles(text)
        signature = _signature(hashes)
        candidates = np.array(sorted(index.query(signature)), dtype=np.int64)
        if len(candidates) > _MOST_CANDIDATES:  # texts made from one template collide by the thousand
            agreement = (signatures[candidates] == signature.hashvalues).sum(axis=1)
            candidates = candidates[np.argsort(-agreement, kind="stable")[:_MOST_CANDIDATES]]
        if any(jaccard(hashes, held_out[number]) >= threshold for number in candidates):
            found.add(key)
    return frozenset(found)


def bands_and_rows(threshold: float) -> tuple[int, int]:
    """Bands b and rows r of the index: the largest r, which means the fewest comparisons in vain, that misses
    a pair of similarity s at the threshold with probability (1 - s^r)^b of at most 1 % (*Mining of Massive
    Datasets*, section 3.4.2)."""
    choices = ((_PERMUTATIONS // rows, rows) for rows in range(_PERMUTATIONS // 2, 0, -1))
    sure = (choice for choice in choices if (1 - threshold ** choice[1]) ** choice[0] <= _MOST_MISSED)
    return next(sure, (_PERMUTATIONS, 1))


# Shingles are hashes already.
_EMPTY = MinHash(num_perm=_PERMUTATIONS, seed=1, scheme="affine32", hashfunc=int)


def _signature(hashes: Shingles) -> MinHash:
    signature = _EMPTY.copy()
    signature.update_batch(hashes.tolist())
    return signature
