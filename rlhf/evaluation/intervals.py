"""Confidence intervals for the figures that decide: Wilson for shares, BCa bootstrap for everything else."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from rlhf.errors import DataError


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval."""

    low: float
    high: float


def wilson_interval(successes: float, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a share (Wilson 1927, JASA 22:209).

    Args:
        successes: may hold halves, as when ties count half.
        n: number of independent trials.

    Raises:
        DataError: no trials, or more successes than trials.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise DataError(f"A share needs 0 <= successes <= n and n > 0, not {successes} of {n}.")
    if float(successes).is_integer():
        interval = stats.binomtest(int(successes), n).proportion_ci(confidence, method="wilson")
        return Interval(float(interval.low), float(interval.high))
    # scipy takes whole successes only; with halves the same formula still holds.
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    share = successes / n
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    return Interval(max(0.0, center - half), min(1.0, center + half))


def bca_interval(
    values: Sequence[float] | NDArray[np.floating[Any]],
    statistic: Callable[..., Any] = np.mean,
    confidence: float = 0.95,
    seed: int = 0,
    *,
    resamples: int = 4999,
) -> Interval:
    """Bias-corrected and accelerated bootstrap interval (Efron 1987, JASA 82:171) of a statistic of
    ``values``.

    Constant values give an interval of no width; two values or fewer that differ give the range of the
    values, since nothing better can be said.

    Args:
        values: one number per independent unit (prompt), shape (n,).
        statistic: takes an array and an ``axis``, as numpy's do.

    Raises:
        DataError: no values, or one that is not finite.
    """
    sample = np.asarray(values, dtype=float)
    if sample.ndim != 1 or sample.size == 0:
        raise DataError(f"An interval needs a row of at least one value, not the shape {sample.shape}.")
    if not np.isfinite(sample).all():
        raise DataError(
            f"Value {int(np.argmin(np.isfinite(sample)))} is not finite; an interval needs numbers."
        )
    if np.ptp(sample) == 0.0:
        constant = float(statistic(sample))
        return Interval(constant, constant)
    if sample.size <= 2:
        return Interval(float(sample.min()), float(sample.max()))
    result = stats.bootstrap(
        (sample,),
        statistic,
        confidence_level=confidence,
        n_resamples=resamples,
        method="BCa",
        rng=np.random.default_rng(seed),
        batch=max(1, 2_000_000 // sample.size),
        vectorized=_takes_axis(statistic, sample),
    )
    interval = result.confidence_interval
    if not (np.isfinite(interval.low) and np.isfinite(interval.high)):
        # A jackknife without spread (a median of few values): the acceleration is undefined.
        interval = stats.bootstrap(
            (sample,), statistic, confidence_level=confidence, n_resamples=resamples, method="percentile",
            rng=np.random.default_rng(seed), vectorized=_takes_axis(statistic, sample),
        ).confidence_interval  # fmt: skip
    return Interval(float(interval.low), float(interval.high))


def _takes_axis(statistic: Callable[..., Any], sample: NDArray[np.floating[Any]]) -> bool:
    try:
        statistic(sample[None, :2], axis=-1)
    except TypeError:
        return False
    return True
