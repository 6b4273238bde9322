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
    alpha = _alpha(patterns, multiplicity.astype(float), scale, level)
    if np.isnan(alpha):
        return None
    resamples = int(np.clip(_MOST_WORK / (patterns.size * len(domain)), _FEWEST_RESAMPLES, _RESAMPLES))
    rng = np.random.default_rng(seed)
    # Drawing items with replacement is drawing how often each pattern of counts comes up.
    drawn = rng.multinomial(count, multiplicity / count, size=resamples)
    alphas = [_alpha(patterns, weights.astype(float), scale, level) for weights in drawn]
    low, high = np.nanpercentile(alphas, [2.5, 97.5])
    return Agreement(alpha, Interval(float(low), float(high)), count, int(judged[judged > 1].sum()))


def _alpha(counts: NDArray[np.int64], weights: Floats, scale: Floats, level: Level) -> float:
    """Alpha from counts of values by item, (items, values), each item taken ``weights`` times."""
    share = weights / (counts.sum(axis=1) - 1)
    observed = (counts * share[:, None]).T @ counts
    observed[np.diag_indices_from(observed)] -= share @ counts
    total = observed.sum(axis=1)
    distance = _squared_distances(total, scale, level)
    # Values within an item are paired without replacement, and so are those of all items by chance.
    expected = (total @ distance @ total) / (total.sum() - 1)
    return float(1.0 - (observed * distance).sum() / expected) if expected > 0 else float("nan")


def _squared_distances(total: Floats, scale: Floats, level: Level) -> Floats:
    if level == "nominal":
        return 1.0 - np.eye(len(total))
    if level == "interval":
        return (scale[:, None] - scale[None, :]) ** 2
    # Ranks between two values, counting half of either: how many judgements lie between them.
    middle = np.cumsum(total) - total / 2
    return (middle[:, None] - middle[None, :]) ** 2
