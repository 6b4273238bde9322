"""Lengths as a quality figure: whether the longer answer is simply the preferred one, and whether texts look
cut off."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.evaluation.intervals import Interval, wilson_interval

_CLOSERS = "\"'`´’”»)]}*_~"
_TERMINALS = ".!?…。！？।؟:;>"


@dataclass(frozen=True)
class LengthBias:
    """How far length explains preference."""

    longer_chosen: float
    """Share of pairs whose chosen side is the longer one, of those that differ in length."""
    interval: Interval
    """Wilson's 95 % interval of it."""
    correlation: float
    """Of the difference in length with the preference, between -1 and 1."""
    pairs: int
    """Pairs whose sides differ in length."""


def length_bias(
    chosen: Sequence[int] | NDArray[np.integer[Any]], rejected: Sequence[int] | NDArray[np.integer[Any]]
) -> LengthBias | None:
    """Length bias of comparisons by the lengths of their sides, (n,); None if no two lengths differ.

    The correlation is Pearson's between the preference, ±1, and the difference in length of the two sides,
    with each pair taken in both orders: which side comes first means nothing, so both means are zero and it
    is the mean difference over its root mean square.
    """
    gap = np.asarray(chosen, dtype=float) - np.asarray(rejected, dtype=float)
    decided = gap[gap != 0]
    if not len(decided):
        return None
    longer = int((decided > 0).sum())
    return LengthBias(
        longer_chosen=longer / len(decided),
        interval=wilson_interval(longer, len(decided)),
        correlation=float(gap.mean() / math.sqrt(float(np.square(gap).mean()))),
        pairs=len(decided),
    )


def looks_cut_off(text: str) -> bool:
    """Whether a text ends without terminal punctuation, which may be behind closing quotes, brackets or
    markup. Headings, lists, code and chat style end so as well: a figure to compare sources by, not a
    verdict on a text. An empty text is not cut off."""
    bare = text.rstrip().rstrip(_CLOSERS).rstrip()
    ended = text.rstrip()
    return bool(ended) and not (bare == "" or bare[-1] in _TERMINALS or ended[-1] in "`}")
