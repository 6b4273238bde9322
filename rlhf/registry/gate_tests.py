"""The gate's statistics: one-sided tests paired by prompt, with interval, power and the prompts it would
take.

Whoever asks for a verdict says what counts as the null hypothesis and which effect is worth having; nothing
here knows of criteria or models.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from statsmodels.stats.power import normal_sample_size_one_tail

from rlhf.errors import EvaluationError
from rlhf.evaluation.intervals import Interval, bca_interval
from rlhf.evaluation.statistics import t_test_power
from rlhf.evaluation.win_rate import win_rate

Values = npt.NDArray[np.float64]

_RESAMPLES_SEED = 0


@dataclass(frozen=True)
class PairedTest:
    """One one-sided test that a figure is above its null value.

    ``low`` and ``high`` end the two-sided interval at ``1 − 2α``: each is a one-sided bound at level α.
    """

    value: float
    low: float
    high: float
    p_value: float
    prompts: int
    ties: int
    effect: float
    """Effect beyond the null value for which the power is stated, in the figure's unit."""
    power: float | None
    """Chance that this many prompts would have met the test had the effect been real; ``None`` without
    variance."""
    needed: int | None
    """Prompts that would have been needed to find that effect with the wanted power."""
    needed_observed: int | None
    """The same for the effect as it was observed; ``None`` if it does not point beyond the null value."""
    method: str


def win_rate_test(
    differences: Values, *, null: float, effect: float, alpha: float, power: float, tolerance: float
) -> PairedTest:
    """Test that the share of prompts won, ties counted as half, is above ``null``.

    Without ties: the exact binomial test and Clopper and Pearson's bounds (1934, Biometrika 26:404), which
    belong together. With ties: against one half McNemar's exact test (1947, Psychometrika 12:153), which asks
    whether more prompts are won than lost; against another value the t-test of the scores 0, ½, 1. The
    interval is then the bootstrap's, see :func:`rlhf.evaluation.win_rate.win_rate`.

    Args:
        differences: mean reward of the policy minus the baseline's by prompt, shape ``[prompts]``.
        tolerance: differences up to this size are ties.

    Raises:
        EvaluationError: fewer than two prompts, or a difference that is not finite.
    """
    _check(differences)
    n = len(differences)
    wins, losses = int((differences > tolerance).sum()), int((differences < -tolerance).sum())
    ties = n - wins - losses
    if not ties:
        test = stats.binomtest(wins, n, null, alternative="greater")
        both = stats.binomtest(wins, n, null).proportion_ci(1 - 2 * alpha, method="exact")
        return PairedTest(
            value=wins / n,
            low=float(both.low),
            high=float(both.high),
            p_value=float(test.pvalue),
            prompts=n,
            ties=0,
            effect=effect,
            power=_binomial_power(n, null, min(null + effect, 1.0), alpha),
            needed=_binomial_needed(null, null + effect, alpha, power),
            needed_observed=_binomial_needed(null, wins / n, alpha, power) if wins / n > null else None,
            method="exact binomial test",
        )
    scores = np.where(np.abs(differences) <= tolerance, 0.5, (differences > 0).astype(np.float64))
    zeros = np.zeros_like(differences)
    rate = win_rate(
        differences, zeros, np.arange(n), tolerance=tolerance, confidence=1 - 2 * alpha, seed=_RESAMPLES_SEED
    )
    tested = _mean_test(scores, null, effect, alpha, power, lambda: Interval(rate.low, rate.high))
    if null != 0.5:
        return PairedTest(**{**tested, "ties": ties})
    decided = wins + losses
    p_value = float(stats.binomtest(wins, decided, 0.5, alternative="greater").pvalue) if decided else 1.0
    return PairedTest(**{**tested, "p_value": p_value, "ties": ties, "method": "McNemar's exact test"})


def mean_difference_test(
    differences: Values, *, null: float, effect: float | None, alpha: float, power: float
) -> PairedTest:
    """Test that the mean difference is above ``null``: the paired t-test with a BCa interval (Efron, 1987).

    Args:
        differences: shape ``[prompts]``.
        effect: ``None`` for a fifth of the differences' standard deviation, a small effect in Cohen's words
            (*Statistical Power Analysis for the Behavioral Sciences*, 1988, section 2.2).

    Raises:
        EvaluationError: fewer than two prompts, or a difference that is not finite.
    """
    _check(differences)
    deviation = float(differences.std(ddof=1))
    return PairedTest(
        **_mean_test(
            differences,
            null,
            0.2 * deviation if effect is None else effect,
            alpha,
            power,
            lambda: bca_interval(differences, confidence=1 - 2 * alpha, seed=_RESAMPLES_SEED),
        )
    )


def prompts_needed(distance: float, deviation: float, *, alpha: float, power: float) -> int | None:
    """Prompts from which a mean at this distance from a bound is told from it, by the normal approximation.

    Args:
        deviation: standard deviation over prompts, in the unit of ``distance``.
    """
    if distance <= 0 or deviation <= 0:
        return None
    return max(2, math.ceil(normal_sample_size_one_tail(distance, power, alpha, std_null=deviation)))


def _mean_test(
    values: Values, null: float, effect: float, alpha: float, power: float, interval: Callable[[], Interval]
) -> dict[str, Any]:
    n = len(values)
    value, deviation = float(values.mean()), float(values.std(ddof=1))
    between = interval()
    common = {
        "value": value,
        "low": between.low,
        "high": between.high,
        "prompts": n,
        "ties": 0,
        "effect": effect,
    }
    if np.ptp(values) == 0:
        # Nothing varies, so t is not defined; that so many prompts agree is still evidence.
        sign = stats.binomtest(int((values > null).sum()), n, 0.5, alternative="greater")
        return {
            **common,
            "p_value": float(sign.pvalue),
            "power": None,
            "needed": None,
            "needed_observed": None,
            "method": "sign test",
        }

    def needed(distance: float) -> int | None:
        return prompts_needed(distance, deviation, alpha=alpha, power=power)

    return {
        **common,
        "p_value": float(stats.ttest_1samp(values, null, alternative="greater").pvalue),
        "power": t_test_power(effect / deviation, n, alpha, "larger"),
        "needed": needed(effect),
        "needed_observed": needed(value - null),
        "method": "paired t-test",
    }


@lru_cache(maxsize=256)
def _binomial_power(n: int, null: float, alternative: float, alpha: float) -> float:
    """Exact: the chance of at least the smallest number of wins that the test at ``null`` takes."""
    largest_refused = float(stats.binom.isf(alpha, n, null))
    return float(stats.binom.sf(largest_refused, n, alternative))


@lru_cache(maxsize=4096)
def _binomial_needed(null: float, alternative: float, alpha: float, power: float) -> int | None:
    if not null < alternative < 1:
        return None
    deviations = (math.sqrt(p * (1 - p)) for p in (null, alternative))
    return max(2, math.ceil(normal_sample_size_one_tail(alternative - null, power, alpha, *deviations)))


def _check(differences: Values) -> None:
    if differences.ndim != 1 or len(differences) < 2:
        raise EvaluationError(
            f"A paired test needs at least two prompts, not {differences.size}; add held-out prompts."
        )
    if not np.isfinite(differences).all():
        position = int(np.argmin(np.isfinite(differences)))
        raise EvaluationError(
            f"The difference of prompt {position} is not a finite number; repair the reward."
        )
