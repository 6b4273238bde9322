"""Two models on the same prompts: means, paired differences and win rates, each with its interval, and the
tests that belong to them.

Prompts are the unit of every statistic: several samples of one prompt (or a prompt that stands twice in the
data) are averaged first, since they are not independent. Which reward judges, and whether it can be trusted,
is not decided here.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from rlhf.errors import EvaluationError
from rlhf.evaluation.intervals import bca_interval, wilson_interval
from rlhf.evaluation.statistics import (
    LengthControlled,
    Power,
    length_controlled_win_rate,
    mcnemar_p_value,
    permutation_p_value,
    win_rate_power,
)

Values = npt.NDArray[np.float64]
Clusters = npt.NDArray[np.intp]


_BOOTSTRAP_FROM = 30
"""Prompts from which a bootstrap of scores on a coarse lattice (0, ½, 1) covers what it promises."""


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts and its confidence interval, in the unit of what was averaged."""

    value: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """For people, such as ``0.61 [0.55, 0.67]``."""
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


@dataclass(frozen=True)
class WinRate:
    """Share of prompts on which the first model is better, ties counted as half, with its interval.

    ``wins``, ``ties`` and ``losses`` count answers (prompts times samples); the rate averages over prompts.
    """

    rate: float
    low: float
    high: float
    wins: int
    ties: int
    losses: int
    prompts: int
    method: Literal["wilson", "bca"]


@dataclass(frozen=True)
class Comparison:
    """One model against another under one reward: first minus second, and how often the first is better."""

    difference: Estimate
    win_rate: WinRate
    p_value: float
    """Two-sided, of the win rate being one half: paired permutation test over prompts, ties counted as
    half."""
    mcnemar_p_value: float
    """The same by McNemar's exact test of the prompts that are won and lost; those in between have no
    part."""
    power: Power
    """Of the win rate against one half, at the level of the intervals."""
    length_controlled: LengthControlled | None
    """The win rate at equal lengths; ``None`` where length alone decides."""


def prompt_means(values: Values, clusters: Clusters) -> Values:
    """Mean of each prompt's values.

    Args:
        values: shape ``[answers]``.
        clusters: shape ``[answers]``, number of the distinct prompt of each answer, 0 to prompts − 1.

    Returns:
        shape ``[prompts]``.
    """
    return np.bincount(clusters, weights=values) / np.bincount(clusters)


def mean_estimate(values: Values, clusters: Clusters, *, confidence: float, seed: int) -> Estimate:
    """Mean over prompts with a BCa bootstrap interval (Efron, 1987) over prompts.

    Raises:
        EvaluationError: fewer than two distinct prompts.
    """
    means = prompt_means(values, clusters)
    _require_two(means)
    interval = bca_interval(means, confidence=confidence, seed=seed)
    return Estimate(float(means.mean()), interval.low, interval.high)


def ratio_estimate(
    numerators: Values, denominators: Values, clusters: Clusters, *, confidence: float, seed: int
) -> Estimate:
    """Ratio of two means over prompts, such as nats per token.

    The interval is that of the linearised ratio ``R + (a − R·b) / mean(b)`` (Cochran, *Sampling Techniques*,
    section 6.3), whose mean is the ratio itself.
    """
    top, bottom = prompt_means(numerators, clusters), prompt_means(denominators, clusters)
    ratio = top.mean() / bottom.mean()
    linear = ratio + (top - ratio * bottom) / bottom.mean()
    return mean_estimate(linear, np.arange(len(linear)), confidence=confidence, seed=seed)


def win_scores(first: Values, second: Values, tolerance: float) -> Values:
    """1 where ``first`` is better, 0 where ``second`` is, ½ for ties (differences of up to ``tolerance``)."""
    difference = first - second
    return np.where(np.abs(difference) <= tolerance, 0.5, (difference > 0).astype(np.float64))


def win_rate(
    first: Values, second: Values, clusters: Clusters, *, tolerance: float, confidence: float, seed: int
) -> WinRate:
    """How often ``first`` is better than ``second``, answer by answer.

    Where every prompt is simply won or lost the interval is Wilson's (1927) for a binomial share. Ties and
    several samples per prompt make it a mean of scores in [0, 1]: then it is BCa over prompts. Few prompts,
    or prompts that all score the same, keep Wilson's, which is wider there (no score in [0, 1] varies more
    than a win or a loss) and never takes unanimity for certainty.

    Args:
        tolerance: differences up to this size, in the reward's unit, are ties.

    Raises:
        EvaluationError: fewer than two distinct prompts.
    """
    scores = win_scores(first, second, tolerance)
    means = prompt_means(scores, clusters)
    _require_two(means)
    method: Literal["wilson", "bca"] = "bca"
    if len(means) < _BOOTSTRAP_FROM or np.isin(means, (0.0, 1.0)).all() or np.ptp(means) == 0:
        method = "wilson"
        interval = wilson_interval(float(means.sum()), len(means), confidence)
    else:
        interval = bca_interval(means, confidence=confidence, seed=seed)
    return WinRate(
        rate=float(means.mean()),
        low=interval.low,
        high=interval.high,
        wins=int((scores == 1).sum()),
        ties=int((scores == 0.5).sum()),
        losses=int((scores == 0).sum()),
        prompts=len(means),
        method=method,
    )


def compare(
    first: Values,
    second: Values,
    clusters: Clusters,
    *,
    length_differences: Values,
    tolerance: float,
    confidence: float,
    seed: int,
) -> Comparison:
    """Paired difference and win rate of two models' scores on the same answers' places, shape ``[answers]``.

    Args:
        length_differences: the first model's answer's length less the second's, in one unit for both, shape
            ``[answers]``.
    """
    scores = win_scores(first, second, tolerance)
    means = prompt_means(scores, clusters)
    return Comparison(
        difference=mean_estimate(first - second, clusters, confidence=confidence, seed=seed),
        win_rate=win_rate(first, second, clusters, tolerance=tolerance, confidence=confidence, seed=seed),
        p_value=permutation_p_value(means - 0.5, seed=seed),
        mcnemar_p_value=mcnemar_p_value(int((means > 0.5).sum()), int((means < 0.5).sum())),
        power=win_rate_power(means, alpha=1 - confidence),
        length_controlled=length_controlled_win_rate(
            scores, length_differences, clusters, confidence=confidence
        ),
    )


def _require_two(means: Values) -> None:
    if len(means) < 2:
        raise EvaluationError(
            f"An interval needs at least two distinct prompts, not {len(means)}; add held-out prompts."
        )
