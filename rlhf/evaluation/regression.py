"""How well predicted ratings fit given ones: correlation, rank correlation, and error, with intervals."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from rlhf.errors import DataError

Values = NDArray[np.float64]
_RESAMPLES = 999


def regression_figures(
    predicted: Sequence[float] | Values, actual: Sequence[float] | Values, *, intervals: bool, seed: int = 0
) -> dict[str, float]:
    """Figures of predictions of the same unit as the ratings, both of shape (n,).

    Args:
        intervals: also give BCa bootstrap intervals (Efron 1987, JASA 82:171) of 95 % over rows. Rows of one
            prompt resemble each other, so with many answers to a prompt they are too narrow.

    Returns:
        ``pearson``, ``spearman``, ``r2`` (share of the variance explained; below 0 when worse than the mean
        of these ratings) and ``rmse``, each with ``_low`` and ``_high``. What is undefined, as correlations
        with a constant are, is left out.

    Raises:
        DataError: there is nothing to compare, or there are not as many predictions as ratings.
    """
    x, y = np.asarray(predicted, dtype=np.float64), np.asarray(actual, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1 or not x.size:
        raise DataError(f"A fit needs one prediction for each rating, not {x.size} for {y.size}.")
    figures: dict[str, float] = {}
    for name, statistic in _STATISTICS.items():
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(statistic(x, y))
        if not np.isfinite(value):
            continue
        figures[name] = value
        if intervals and x.size > 2:
            figures |= _interval(name, statistic, x, y, seed)
    return figures


def pearson(x: Values, y: Values, axis: int = -1) -> Values:
    """Correlation along an axis; NaN where one side is constant."""
    x, y = x - x.mean(axis=axis, keepdims=True), y - y.mean(axis=axis, keepdims=True)
    return (x * y).sum(axis=axis) / np.sqrt((x**2).sum(axis=axis) * (y**2).sum(axis=axis))


def spearman(x: Values, y: Values, axis: int = -1) -> Values:
    """Correlation of the ranks along an axis; ties share their mean rank."""
    return pearson(stats.rankdata(x, axis=axis), stats.rankdata(y, axis=axis), axis)


def r_squared(predicted: Values, actual: Values, axis: int = -1) -> Values:
    """One less the squared error over that of the ratings' own mean."""
    spread = ((actual - actual.mean(axis=axis, keepdims=True)) ** 2).sum(axis=axis)
    return 1.0 - ((actual - predicted) ** 2).sum(axis=axis) / spread


def rmse(predicted: Values, actual: Values, axis: int = -1) -> Values:
    """Root of the mean squared error, in the ratings' unit."""
    return np.sqrt(((actual - predicted) ** 2).mean(axis=axis))


_STATISTICS: dict[str, Callable[..., Values]] = {
    "pearson": pearson,
    "spearman": spearman,
    "r2": r_squared,
    "rmse": rmse,
}


def _interval(
    name: str, statistic: Callable[..., Values], x: Values, y: Values, seed: int
) -> dict[str, float]:
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # seen below by its NaN
        interval = stats.bootstrap(
            (x, y),
            statistic,
            paired=True,
            vectorized=True,
            method="BCa",
            n_resamples=_RESAMPLES,
            batch=max(1, 2_000_000 // x.size),
            rng=np.random.default_rng(seed),
        ).confidence_interval
    if not (np.isfinite(interval.low) and np.isfinite(interval.high)):
        return {}  # a resample was constant: too few different ratings for an interval
    return {f"{name}_low": float(interval.low), f"{name}_high": float(interval.high)}
