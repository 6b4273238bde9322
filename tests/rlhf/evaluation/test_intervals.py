"""Confidence intervals against published values, scipy and simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rlhf.errors import DataError
from rlhf.evaluation.intervals import bca_interval, wilson_interval


def test_wilson_gives_the_published_interval() -> None:
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3: 81 of 263.
    interval = wilson_interval(81, 263)
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.2553, 0.3662)


@given(n=st.integers(1, 500), data=st.data())
def test_wilson_lies_within_zero_and_one_around_the_share(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, 2 * n)) / 2
    interval = wilson_interval(successes, n)
    assert 0 <= interval.low <= successes / n + 1e-12
    assert successes / n - 1e-12 <= interval.high <= 1


@given(n=st.integers(1, 300), data=st.data())
def test_the_losses_mirror_the_wins(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, 2 * n)) / 2
    wins, losses = wilson_interval(successes, n), wilson_interval(n - successes, n)
    assert wins.low == pytest.approx(1 - losses.high, abs=1e-9)


def test_half_successes_lie_between_their_neighbours() -> None:
    below, half, above = (wilson_interval(k, 20).low for k in (7, 7.5, 8))
    assert below < half < above


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (5, 4), (-1, 4)])
def test_an_impossible_share_is_an_error(successes: int, n: int) -> None:
    with pytest.raises(DataError, match="share"):
        wilson_interval(successes, n)


def test_bca_is_that_of_scipy() -> None:
    values = np.random.default_rng(0).exponential(size=60)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=4999, method="BCa", rng=np.random.default_rng(3)
    ).confidence_interval
    interval = bca_interval(values, seed=3)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_bca_covers_the_mean_of_a_skewed_population_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(150):
        interval = bca_interval(rng.exponential(size=50), resamples=499)
        hits += interval.low <= 1.0 <= interval.high
    assert 0.87 <= hits / 150 <= 0.99


def test_a_statistic_without_an_axis_is_taken_row_by_row() -> None:
    interval = bca_interval(np.arange(30.0), statistic=lambda row: float(np.median(row)), resamples=499)
    assert interval.low < 14.5 < interval.high


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30))
def test_bca_is_finite_ordered_and_within_the_values(values: list[float]) -> None:
    interval = bca_interval(values, resamples=199)
    tolerance = 1e-6 * (1 + max(map(abs, values)))
    assert min(values) - tolerance <= interval.low <= interval.high + tolerance <= max(values) + 2 * tolerance


def test_constant_values_have_no_width_and_nan_is_an_error() -> None:
    assert bca_interval([2.0] * 9) == bca_interval([2.0])
    assert bca_interval([2.0]).low == bca_interval([2.0]).high == 2.0
    with pytest.raises(DataError, match="Value 1 is not finite"):
        bca_interval([1.0, float("nan")])
    with pytest.raises(DataError, match="at least one value"):
        bca_interval([])
