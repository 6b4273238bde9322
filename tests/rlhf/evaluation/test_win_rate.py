"""The statistics against known values and against the symmetries that they must have."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import binomtest

from rlhf.errors import EvaluationError
from rlhf.evaluation.win_rate import compare, mean_estimate, prompt_means, ratio_estimate, win_rate

JUDGE: dict[str, Any] = {"tolerance": 1e-6, "confidence": 0.95, "seed": 3}
SAMPLE: dict[str, Any] = {"confidence": 0.95, "seed": 3}


def each(count: int) -> np.ndarray:
    return np.arange(count)


@given(
    st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2)), min_size=6, max_size=40), st.integers(1, 3)
)
@hypothesis_settings(max_examples=50, deadline=None)
def test_swapping_the_models_mirrors_the_win_rate_and_its_interval(
    pairs: list[tuple[int, int]], samples: int
) -> None:
    first, second = np.array(pairs, dtype=float).T
    clusters = np.arange(len(pairs)) // samples
    ahead, behind = win_rate(first, second, clusters, **JUDGE), win_rate(second, first, clusters, **JUDGE)
    assert ahead.rate == pytest.approx(1 - behind.rate)
    assert (ahead.wins, ahead.ties, ahead.losses) == (behind.losses, behind.ties, behind.wins)
    assert ahead.method == behind.method
    # the bootstrap of a coarse lattice may round to its next point
    step = 0.5 / len(pairs) if ahead.method == "bca" else 1e-9
    assert (ahead.low, ahead.high) == pytest.approx((1 - behind.high, 1 - behind.low), abs=step)


def test_swapping_the_models_mirrors_the_difference() -> None:
    rng = np.random.default_rng(5)
    first, second = rng.normal(1, 1, size=60), rng.normal(size=60)
    ahead, behind = (
        compare(*models, each(60), length_differences=np.zeros(60), **JUDGE).difference
        for models in ((first, second), (second, first))
    )
    assert (ahead.value, ahead.low, ahead.high) == pytest.approx((-behind.value, -behind.high, -behind.low))
    assert ahead.low < ahead.value < ahead.high


def test_identical_answers_give_win_rate_one_half_and_difference_zero() -> None:
    scores = np.random.default_rng(0).normal(size=50)
    result = compare(scores, scores + 1e-8, each(50), length_differences=np.zeros(50), **JUDGE)
    assert (result.win_rate.rate, result.win_rate.ties) == (0.5, 50)
    assert result.win_rate.low < 0.5 < result.win_rate.high
    assert result.difference.value == pytest.approx(0, abs=1e-7)


def test_without_ties_the_interval_is_wilsons() -> None:
    # 15 of 20: the 95 % score interval is 0.5313 to 0.8881 (Newcombe's formula, worked by hand).
    first = np.r_[np.ones(15), -np.ones(5)]
    result = win_rate(first, np.zeros(20), each(20), **JUDGE)
    assert result.method == "wilson"
    assert (result.low, result.high) == pytest.approx((0.5313, 0.8881), abs=2e-4)


def test_unanimity_is_not_certainty() -> None:
    result = win_rate(np.ones(10), np.zeros(10), each(10), **JUDGE)
    assert (result.rate, result.high) == (1.0, pytest.approx(1.0))
    assert 0.6 < result.low < 0.8


def test_ties_count_half_and_ask_for_the_bootstrap() -> None:
    first = np.array([1.0, 1.0, 0.0, -1.0] * 10)
    result = win_rate(first, np.zeros(40), each(40), **JUDGE)
    assert (result.rate, result.wins, result.ties, result.losses) == (0.625, 20, 10, 10)
    assert result.method == "bca"
    error = np.array([1, 1, 0.5, 0] * 10).std(ddof=1) / np.sqrt(40)
    assert result.low == pytest.approx(0.625 - 1.96 * error, abs=0.03)
    assert result.high == pytest.approx(0.625 + 1.96 * error, abs=0.03)


def test_an_interval_shrinks_with_prompts_and_not_with_copies_of_them() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=30)
    once = mean_estimate(values, each(30), **SAMPLE)
    copied = mean_estimate(np.repeat(values, 10), np.repeat(each(30), 10), **SAMPLE)
    more = mean_estimate(np.r_[values, rng.normal(size=270)], each(300), **SAMPLE)
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))
    assert more.high - more.low < 0.5 * (once.high - once.low)


def test_the_mean_interval_is_close_to_students_for_normal_values() -> None:
    values = np.random.default_rng(2).normal(5, 2, size=200)
    found = mean_estimate(values, each(200), **SAMPLE)
    low, high = stats.t.interval(0.95, 199, values.mean(), stats.sem(values))
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.05)


def test_prompts_weigh_the_same_whatever_their_number_of_samples() -> None:
    values, clusters = np.array([1.0, 1.0, 1.0, 5.0]), np.array([0, 0, 0, 1])
    assert prompt_means(values, clusters).tolist() == [1.0, 5.0]
    assert mean_estimate(values, clusters, **SAMPLE).value == 3.0


def test_a_ratio_is_that_of_the_sums_with_a_matching_interval() -> None:
    rng = np.random.default_rng(4)
    tokens = rng.integers(5, 50, size=300).astype(float)
    nats = 0.2 * tokens + rng.normal(size=300)
    found = ratio_estimate(nats, tokens, each(300), **SAMPLE)
    assert found.value == pytest.approx(nats.sum() / tokens.sum())
    direct = stats.bootstrap(
        (nats, tokens),
        lambda a, b, axis: a.mean(axis) / b.mean(axis),
        paired=True,
        vectorized=True,
        rng=np.random.default_rng(0),
        n_resamples=2000,
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((direct.low, direct.high), abs=0.002)


def test_one_prompt_has_no_interval() -> None:
    with pytest.raises(EvaluationError, match="at least two distinct prompts, not 1"):
        compare(np.ones(3), np.zeros(3), np.zeros(3, dtype=int), length_differences=np.zeros(3), **JUDGE)


def test_a_comparisons_tests_are_those_of_its_prompts() -> None:
    rng = np.random.default_rng(2)
    first, second = rng.normal(0.3, 1.0, 80), rng.normal(0.0, 1.0, 80)
    longer = rng.normal(size=80)
    once = compare(first, second, each(80), length_differences=longer, **JUDGE)
    tripled = compare(
        *(np.repeat(values, 3) for values in (first, second)),
        np.repeat(each(80), 3),
        length_differences=np.repeat(longer, 3),
        **JUDGE,
    )
    # Three copies of an answer are no more evidence than one.
    assert (tripled.p_value, tripled.mcnemar_p_value) == (once.p_value, once.mcnemar_p_value)
    assert tripled.power == once.power
    assert once.length_controlled is not None
    wins = int((first > second).sum())
    assert once.mcnemar_p_value == pytest.approx(binomtest(wins, 80).pvalue)
    # Without ties the sign-flip test of the win scores is the same test, but for the random draws.
    assert once.p_value == pytest.approx(once.mcnemar_p_value, abs=0.02)
