"""Krippendorff's alpha with a bootstrap interval: how much more annotators agree than chance would have
them."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlhf.evaluation.intervals import Interval

Floats = NDArray[np.float64]
Level = Literal["nominal", "ordinal", "interval"]

_RESAMPLES = 1000
_FEWEST_RESAMPLES = 100
_MOST_WORK = 2e9
"""Multiplications that the interval may take; beyond it there are fewer resamples."""

_CHUNK = 1_000_000
"""Figures held at a time while pairs of values are counted."""


@dataclass(frozen=True)
class Agreement:
    """Alpha of one question: 1 is perfect agreement, 0 is chance, below 0 is systematic disagreement."""

    alpha: float
    interval: Interval
    """95 % percentile interval of a bootstrap over items."""
    items: int
    """Items that at least two judgements were given on."""
    judgements: int
    """Judgements on these items."""


def krippendorff_alpha(
    items: NDArray[np.integer[Any]], values: NDArray[Any], level: Level, *, seed: int = 0
) -> Agreement | None:
    """Alpha of judgements (K. Krippendorff, *Content Analysis*, 4th ed. 2019, section 12.3), whoever gave
    them; None where no item has two judgements or all values are the same, for which alpha is not defined.

    The ``krippendorff`` package, against which this is tested, knows no weights of items; the bootstrap needs
    them. Items with the same counts of values are taken together, which makes an interval over a hundred
    thousand items a matter of milliseconds.

    Args:
        items: item of each judgement, numbered densely from 0, (n,).
        values: its value, (n,): anything with an order for ``ordinal``, numbers for ``interval``.
        level: of measurement, which says how far two values are apart.
        seed: of the bootstrap.
    """
    domain, codes = np.unique(values, return_inverse=True)
    judged = np.bincount(items)
    pairable = judged[items] > 1
    if len(domain) < 2 or not pairable.any():
        return None
    numbered = np.cumsum(judged > 1) - 1
    flat = numbered[items[pairable]] * len(domain) + codes[pairable]
    count = int((judged > 1).sum())
    counts = np.bincount(flat, minlength=count * len(domain)).reshape(count, len(domain))
    patterns, multiplicity = np.unique(counts, axis=0, return_counts=True)
    scale = domain.astype(float) if level == "interval" else np.arange(len(domain), dtype=float)
    alpha = float(_alphas(patterns, multiplicity[None, :], scale, level)[0])
    if np.isnan(alpha):
        return None
    resamples = int(np.clip(_MOST_WORK / (patterns.size * len(domain)), _FEWEST_RESAMPLES, _RESAMPLES))
    # Drawing items with replacement is drawing how often each pattern of counts comes up.
    drawn = np.random.default_rng(seed).multinomial(count, multiplicity / count, size=resamples)
    low, high = np.nanpercentile(_alphas(patterns, drawn, scale, level), [2.5, 97.5])
    return Agreement(alpha, Interval(float(low), float(high)), count, int(judged[judged > 1].sum()))


def _alphas(counts: NDArray[np.int64], weights: NDArray[np.int64], scale: Floats, level: Level) -> Floats:
    """Alpha from counts of values by item, (items, values), each item taken ``weights`` times, for several
    weightings, (weightings, items); NaN where there is only one value."""
    width = counts.shape[1]
    observed = np.zeros((len(weights), width * width))
    chunk = max(1, _CHUNK // width**2)
    for at in range(0, len(counts), chunk):
        own = counts[at : at + chunk].astype(float)
        pairs = own[:, :, None] * own[:, None, :]
        pairs[:, np.arange(width), np.arange(width)] -= own
        pairs /= own.sum(axis=1)[:, None, None] - 1
        observed += weights[:, at : at + chunk].astype(float) @ pairs.reshape(len(own), -1)
    coincidences = observed.reshape(len(weights), width, width)
    total = coincidences.sum(axis=2)
    distance = _squared_distances(total, scale, level)
    # Values within an item are paired without replacement, and so are those of all items by chance.
    by_chance = np.einsum("bv,bvw,bw->b", total, distance, total) / (total.sum(axis=1) - 1)
    disagreement = (coincidences * distance).sum(axis=(1, 2))
    unlike = by_chance > 0
    return 1.0 - np.divide(disagreement, by_chance, out=np.full(len(weights), np.nan), where=unlike)


def _squared_distances(total: Floats, scale: Floats, level: Level) -> Floats:
    """How far values are apart, (weightings, values, values)."""
    if level == "nominal":
        return np.broadcast_to(1.0 - np.eye(len(scale)), (len(total), len(scale), len(scale)))
    # Ordinal: how many judgements lie between two values, with half of either's own.
    middle = np.cumsum(total, axis=1) - total / 2
    at = np.broadcast_to(scale, total.shape) if level == "interval" else middle
    return (at[:, :, None] - at[:, None, :]) ** 2
