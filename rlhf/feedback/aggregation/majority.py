"""Counting judgements: how often each item got each label, and how an annotator stands to the majority of the
others."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.integer[Any]]


def label_counts(items: Integers, labels: Integers, label_count: int | None = None) -> NDArray[np.int64]:
    """How often each item got each label, (items, labels); items and labels are numbered densely from 0."""
    width = int(labels.max()) + 1 if label_count is None else label_count
    height = int(items.max()) + 1
    flat = items.astype(np.int64) * width + labels
    return np.bincount(flat, minlength=height * width).reshape(height, width)


def plurality(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The most frequent label of each item, or -1 where several are equally frequent, (items,)."""
    top = counts.max(axis=1, keepdims=True)
    undecided = (counts == top).sum(axis=1) > 1
    return np.where(undecided, -1, counts.argmax(axis=1))


def agrees_with_others(items: Integers, labels: Integers) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether each judgement equals the plurality of the *other* judgements of its item, and whether they
    have one at all; both (judgements,)."""
    others = label_counts(items, labels)[items]
    others[np.arange(len(labels)), labels] -= 1
    leader = plurality(others)
    leader[others.sum(axis=1) == 0] = -1
    return leader == labels, leader >= 0
