"""Tests between two models on the same prompts, what their size allowed them to find, and a win rate without
the judge's taste for length.

Prompts are independent units: every function takes one number per prompt, or says by which prompt it groups.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from rlhf.errors import DataError
from rlhf.evaluation.intervals import wilson_interval

Values = npt.NDArray[np.float64]
Alternative = Literal["two-sided", "greater", "less"]

_RESAMPLES = 9_999
_SEPARATED = 15.0
"""Log odds beyond which a fitted coefficient only says that the data do not bound it."""


def mcnemar_p_value(wins: int, losses: int) -> float:
    """Two-sided exact p-value of McNemar's test (1947, Psychometrika 12:153): prompts on which only one of
    two models does well, ties aside, fall to either side alike. 1 where there are none."""
    from statsmodels.stats.contingency_tables import mcnemar

    if wins + losses == 0:
        return 1.0
    return float(mcnemar([[0, wins], [losses, 0]], exact=True).pvalue)


def permutation_p_value(
    differences: Values, *, alternative: Alternative = "two-sided", seed: int = 0, resamples: int = _RESAMPLES
) -> float:
    """P-value of a paired permutation test of the mean: under the null hypothesis, which of two models gave
    which score is chance, so each difference may as well have the other sign.

    All sign changes are tried where they are no more than ``resamples``, otherwise as many at random, the
    observed one counted with them (Phipson & Smyth 2010, doi:10.2202/1544-6115.1585): it is never 0.

    Args:
        differences: one per prompt, shape (prompts,).

    Raises:
        DataError: no differences, or one that is not finite.
    """
    _require(differences)
    if not differences.any():
        return 1.0
    result = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, 2_000_000 // len(differences)),
        alternative=alternative,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P-values of one family of findings, by name, adjusted by Holm (1979, Scand. J. Statist. 6:65): where
    one is below α, that finding holds at α whatever else was looked at."""
    from statsmodels.stats.multitest import multipletests

    if not p_values:
        return {}
    adjusted = multipletests(list(p_values.values()), method="holm")[1]
    return dict(zip(p_values, map(float, adjusted), strict=True))


@dataclass(frozen=True)
class Power:
    """What a test of a mean against a null value could find."""

    achieved: float
    """Probability that as many new prompts show a difference, if the observed one is the true one."""
    prompts_needed: int | None
    """Prompts for which that probability is the wanted one; ``None`` where nothing was observed."""
    detectable: float
    """Smallest difference from the null value that these prompts show with the wanted probability."""


def power_of_mean(
    values: Values,
    null: float,
    *,
    spread_at_least: float = 0.0,
    alpha: float = 0.05,
    wanted: float = 0.8,
    alternative: Literal["two-sided", "larger"] = "two-sided",
) -> Power:
    """Power of the t-test of a mean, from what was observed (statsmodels' ``TTestPower``).

    The power at the observed effect follows from the p-value and is no evidence of its own (Hoenig & Heisey
    2001, The American Statistician 55:19): after a test that found nothing, look at ``detectable`` and
    ``prompts_needed``.

    Args:
        values: one per prompt, such as win scores in [0, 1], shape (prompts,).
        null: mean under the null hypothesis, such as 0.5.
        spread_at_least: lower bound of the standard deviation, for values that happen to be all the same.

    Raises:
        DataError: fewer than two values, one that is not finite, or no spread.
    """
    from statsmodels.stats.power import TTestPower

    _require(values)
    count = len(values)
    spread = max(float(np.std(values, ddof=1)) if count > 1 else 0.0, spread_at_least)
    if count < 2 or spread == 0:
        raise DataError("Power needs at least two prompts whose values differ; add held-out prompts.")
    test = TTestPower()
    effect = (float(np.mean(values)) - null) / spread
    found = effect if alternative == "larger" else abs(effect)
    options: dict[str, Any] = {"alpha": alpha, "alternative": alternative}
    needed = None
    if found > 1e-3:  # smaller ones would need millions of prompts
        needed = 2
        if test.power(found, 2, **options) < wanted:
            needed = int(np.ceil(test.solve_power(found, power=wanted, **options)))
    smallest = float(test.solve_power(None, nobs=count, power=wanted, **options))
    return Power(t_test_power(found, count, alpha, alternative), needed, smallest * spread)


def t_test_power(
    effect: float, count: int, alpha: float, alternative: Literal["two-sided", "larger"]
) -> float:
    """Power of the t-test of a mean at an effect in standard deviations (statsmodels' ``TTestPower``), also
    where scipy's noncentral t gives NaN in its tails, as it does from some 25 standard errors on."""
    from statsmodels.stats.power import TTestPower

    test = TTestPower()
    power = float(test.power(effect, count, alpha, alternative=alternative))
    if np.isnan(power) and alternative == "two-sided":  # its other tail has nothing left at such effects
        power = float(test.power(abs(effect), count, alpha / 2, alternative="larger"))
    return float(effect > 0) if np.isnan(power) else power


def win_rate_power(
    scores: Values,
    *,
    alpha: float = 0.05,
    wanted: float = 0.8,
    alternative: Literal["two-sided", "larger"] = "two-sided",
) -> Power:
    """:func:`power_of_mean` of win scores (1 won, ½ tied, 0 lost) against one half. Prompts that all score
    the same are given the spread of a fair coin, the largest that scores in [0, 1] can have."""
    alike = len(scores) < 2 or np.ptp(scores) == 0
    return power_of_mean(
        scores,
        0.5,
        spread_at_least=0.5 if alike else 0.0,
        alpha=alpha,
        wanted=wanted,
        alternative=alternative,
    )


@dataclass(frozen=True)
class LengthControlled:
    """A win rate at equal lengths, and how much of a win length explains."""

    rate: float
    low: float
    high: float
    length_effect: float
    """Log odds of winning for an answer that is one standard deviation of the difference longer (at
    tanh = 1: the most that length can do)."""


def length_controlled_win_rate(
    scores: Values,
    length_differences: Values,
    clusters: npt.NDArray[np.intp],
    *,
    confidence: float = 0.95,
) -> LengthControlled | None:
    """The win rate that there would be if both models answered at equal length (Dubois et al. 2024,
    *Length-Controlled AlpacaEval*, arXiv:2404.04475, eq. 1 and 2).

    A logistic regression of winning on ``θ + φ·tanh(Δ / sd(Δ))``, Δ the difference in length; the rate is
    σ(θ). Their term for how hard an instruction is needs a leaderboard of models on the same instructions and
    is left out. Ties count as half a win (quasi-likelihood), and the interval is Wald's on the log odds with
    a covariance robust to that and to several answers per prompt.

    Args:
        scores: 1 won, ½ tied, 0 lost, shape (answers,).
        length_differences: first model's length less the second's, in one unit for both, shape (answers,).
        clusters: number of each answer's prompt, shape (answers,).

    Returns:
        ``None`` where length alone decides who wins, so that nothing is known of equal lengths. Where one
        model wins everything, length has no say and the interval is Wilson's over prompts.

    Raises:
        DataError: no scores, or one that is not finite.
    """
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_linear_model import GLM

    _require(scores)
    prompts = len(np.unique(clusters))
    if np.ptp(scores) == 0:
        rate = float(scores[0])
        interval = wilson_interval(rate * prompts, prompts, confidence)
        return LengthControlled(rate, interval.low, interval.high, 0.0)
    spread = float(np.std(length_differences))
    columns = [np.ones(len(scores))]
    if spread > 0:
        columns.append(np.tanh(length_differences / spread))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # separation is seen below by its coefficients
        fitted = GLM(scores, np.column_stack(columns), family=Binomial()).fit(
            cov_type="cluster", cov_kwds={"groups": clusters}
        )
        low, high = fitted.conf_int(1 - confidence)[0]
    if not np.isfinite([low, high]).all() or np.abs(fitted.params).max() > _SEPARATED:
        return None
    effect = float(fitted.params[1]) if spread > 0 else 0.0
    rate, low, high = (float(stats.logistic.cdf(x)) for x in (fitted.params[0], low, high))
    return LengthControlled(rate, low, high, effect)


def _require(values: Values) -> None:
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise DataError("A test needs one finite number per prompt; add held-out prompts or repair them.")
