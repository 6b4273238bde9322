"""Each statistic against a published value, or against a library or a formula that it does not use itself."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression

from rlhf.errors import DataError
from rlhf.evaluation.statistics import (
    holm,
    length_controlled_win_rate,
    mcnemar_p_value,
    permutation_p_value,
    power_of_mean,
    win_rate_power,
)

DARWIN = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48], dtype=float)
"""Differences in height of crossed and self-fertilised maize, in eighths of an inch (Fisher, *The Design of
Experiments*, 1935, section 17)."""


def test_mcnemar_is_the_binomial_test_of_the_discordant_pairs() -> None:
    assert mcnemar_p_value(15, 5) == pytest.approx(stats.binomtest(15, 20).pvalue)
    assert mcnemar_p_value(5, 15) == mcnemar_p_value(15, 5)
    assert mcnemar_p_value(0, 0) == 1.0


def test_the_exact_permutation_test_gives_fishers_count_of_darwins_maize() -> None:
    # Of 2**15 sign changes, 1,726 have a sum of at least 314 in either direction (Fisher 1935, section 21).
    assert permutation_p_value(DARWIN, resamples=2**15) == pytest.approx(1726 / 2**15)
    assert permutation_p_value(DARWIN, resamples=2**15, alternative="greater") == pytest.approx(863 / 2**15)


def test_random_permutations_come_near_the_exact_ones_and_repeat() -> None:
    p = permutation_p_value(DARWIN, seed=3)
    assert p == pytest.approx(1726 / 2**15, abs=0.01)
    assert permutation_p_value(DARWIN, seed=3) == p
    assert permutation_p_value(np.zeros(9)) == 1.0


def test_a_permutation_test_of_equal_models_rejects_as_often_as_it_promises() -> None:
    rng = np.random.default_rng(0)
    p = [permutation_p_value(rng.normal(size=40), resamples=399, seed=i) for i in range(400)]
    assert stats.binomtest(sum(x <= 0.05 for x in p), 400, 0.05).pvalue > 0.01


def test_holm_gives_the_steps_of_his_procedure() -> None:
    # By hand: 4 · 0.005, then 3 · 0.01; 2 · 0.03 and, never less than the one before, 1 · 0.04.
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert holm({}) == {}


def test_the_sample_size_is_that_of_cohens_table() -> None:
    # Cohen (1988): d = 0.5, α = 0.05 two-sided, power 0.8 needs 34 pairs; d = 0.2 needs 199.
    for effect, pairs in ((0.5, 34), (0.2, 199)):
        values = np.array([-1.0, 1.0] * 50)
        values = values / values.std(ddof=1) + effect
        assert power_of_mean(values, 0.0).prompts_needed == pairs


def test_power_is_the_share_of_simulated_tests_that_find_the_effect() -> None:
    rng = np.random.default_rng(1)
    scores = rng.permutation(np.repeat([1.0, 0.5, 0.0], [55, 10, 35]))
    draws = rng.choice(scores, size=(4000, 100))
    found = np.mean(stats.ttest_1samp(draws, 0.5, axis=1).pvalue < 0.05)
    assert win_rate_power(scores).achieved == pytest.approx(found, abs=0.03)


def test_a_detectable_difference_is_found_with_the_wanted_probability() -> None:
    scores = np.repeat([1.0, 0.0], [60, 40])
    power = win_rate_power(scores)
    moved = scores - scores.mean() + 0.5 + power.detectable
    assert power_of_mean(moved, 0.5).achieved == pytest.approx(0.8, abs=1e-4)
    assert power_of_mean(moved, 0.5).prompts_needed == pytest.approx(100, abs=1)


def test_a_planted_win_rate_of_60_percent_needs_the_prompts_of_the_binomial_formula() -> None:
    scores = np.repeat([1.0, 0.0], [240, 160])
    power = win_rate_power(scores, alternative="larger")
    z = stats.norm.ppf(0.95) + stats.norm.ppf(0.8)
    assert power.prompts_needed == pytest.approx(z**2 * 0.24 / 0.01, abs=4)
    assert power.achieved > 0.99


def test_nothing_observed_needs_no_number_and_unanimity_is_not_certainty() -> None:
    assert win_rate_power(np.repeat([1.0, 0.0], 20)).prompts_needed is None
    unanimous = win_rate_power(np.ones(10))
    assert unanimous.prompts_needed is not None
    assert unanimous.prompts_needed > 2
    with pytest.raises(DataError, match="values differ"):
        power_of_mean(np.ones(5), 0.0)


def biased_judge(
    count: int, quality: float, length_effect: float, longer_by: float
) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(5)
    lengths = rng.normal(longer_by, 1.0, size=count)
    odds = quality + length_effect * np.tanh(lengths / lengths.std())
    return (rng.random(count) < stats.logistic.cdf(odds)).astype(float), lengths, np.arange(count)


def test_a_judge_that_likes_length_is_seen_through() -> None:
    scores, lengths, clusters = biased_judge(4000, quality=0.0, length_effect=1.5, longer_by=1.0)
    controlled = length_controlled_win_rate(scores, lengths, clusters)
    assert controlled is not None
    assert scores.mean() > 0.65
    assert controlled.low < 0.5 < controlled.high
    assert controlled.length_effect == pytest.approx(1.5, abs=0.25)


def test_the_length_controlled_rate_is_that_of_another_logistic_regression() -> None:
    scores, lengths, clusters = biased_judge(300, quality=0.4, length_effect=0.8, longer_by=0.5)
    model = LogisticRegression(C=1e9, tol=1e-10, max_iter=1000)
    model.fit(np.tanh(lengths / lengths.std())[:, None], scores)
    controlled = length_controlled_win_rate(scores, lengths, clusters)
    assert controlled is not None
    assert controlled.rate == pytest.approx(stats.logistic.cdf(model.intercept_[0]), abs=1e-5)
    assert controlled.length_effect == pytest.approx(model.coef_[0, 0], abs=1e-4)


def test_equal_lengths_leave_the_win_rate_as_it_is() -> None:
    scores = np.repeat([1.0, 0.5, 0.0], [50, 20, 30])
    controlled = length_controlled_win_rate(scores, np.zeros(100), np.arange(100))
    assert controlled is not None
    assert controlled.rate == pytest.approx(scores.mean())
    assert controlled.length_effect == 0.0


def test_answers_of_one_prompt_widen_the_interval_as_one_answer_would() -> None:
    scores, lengths, clusters = biased_judge(200, quality=0.3, length_effect=0.5, longer_by=0.2)
    once = length_controlled_win_rate(scores, lengths, clusters)
    thrice = length_controlled_win_rate(np.tile(scores, 3), np.tile(lengths, 3), np.tile(clusters, 3))
    assert once is not None
    assert thrice is not None
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high), abs=2e-3)


def test_where_length_alone_decides_nothing_is_claimed_and_unanimity_gets_wilsons_interval() -> None:
    lengths = np.linspace(-1, 1, 60)
    assert length_controlled_win_rate((lengths > 0).astype(float), lengths, np.arange(60)) is None
    unanimous = length_controlled_win_rate(np.ones(60), lengths, np.arange(60))
    assert unanimous is not None
    assert (unanimous.rate, unanimous.high) == (1.0, 1.0)
    assert unanimous.low == pytest.approx(stats.binomtest(60, 60).proportion_ci(method="wilson").low)


@pytest.mark.parametrize("wins", range(0, 301, 3))
def test_power_is_a_probability_also_where_nearly_every_prompt_is_won(wins: int) -> None:
    scores = np.array([1.0] * wins + [0.0] * (300 - wins))
    found = win_rate_power(scores)
    assert 0.0 <= found.achieved <= 1.0
    assert math.isfinite(found.detectable)
    if abs(wins - 150) > 50:
        assert found.achieved > 0.99
