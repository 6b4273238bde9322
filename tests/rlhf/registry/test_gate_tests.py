"""The gate's tests against scipy's and statsmodels' own, published figures and simulation."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from rlhf.errors import EvaluationError
from rlhf.registry.gate_tests import PairedTest, Values, mean_difference_test, prompts_needed, win_rate_test


def outcomes(wins: int, ties: int, losses: int) -> Values:
    return np.array([1.0] * wins + [0.0] * ties + [-1.0] * losses)


def win(differences: Values, null: float = 0.5, effect: float = 0.1) -> PairedTest:
    return win_rate_test(differences, null=null, effect=effect, alpha=0.05, power=0.8, tolerance=1e-6)


def mean(differences: Values, null: float = 0.0, effect: float | None = None) -> PairedTest:
    return mean_difference_test(differences, null=null, effect=effect, alpha=0.05, power=0.8)


def test_without_ties_a_win_rate_has_the_exact_binomial_test_and_its_own_bounds() -> None:
    found = win(outcomes(235, 0, 165))
    exact = stats.binomtest(235, 400, 0.5, alternative="greater")
    assert found.p_value == exact.pvalue
    assert found.low == pytest.approx(exact.proportion_ci(0.95).low)
    assert (found.value, found.prompts, found.ties) == (0.5875, 400, 0)


@pytest.mark.parametrize("wins", range(180, 230, 7))
def test_the_lower_bound_lies_above_the_null_value_where_the_test_is_met(wins: int) -> None:
    found = win(outcomes(wins, 0, 400 - wins))
    assert (found.p_value <= 0.05) == (found.low >= 0.5)


def test_with_ties_the_test_is_mcnemars() -> None:
    # Agresti, Categorical Data Analysis (2nd ed.), table 10.1: 86 and 150 changed their approval of the PM.
    found = win(outcomes(150, 1364, 86))
    assert 2 * found.p_value == pytest.approx(mcnemar([[0, 150], [86, 0]], exact=True).pvalue)
    assert found.value == pytest.approx((150 + 1364 / 2) / 1600)
    assert found.low < found.value < found.high


def test_ties_alone_are_no_evidence() -> None:
    found = win(outcomes(0, 50, 0))
    assert (found.value, found.p_value, found.power, found.needed) == (0.5, 1.0, None, None)
    assert found.low < 0.5 < found.high


def test_against_another_value_than_one_half_ties_count_half_in_a_t_test() -> None:
    found = win(outcomes(60, 100, 50), null=0.45)
    scores = np.repeat([1.0, 0.5, 0.0], [60, 100, 50])
    assert found.p_value == pytest.approx(stats.ttest_1samp(scores, 0.45, alternative="greater").pvalue)
    assert found.ties == 100


def test_power_of_the_exact_test_is_what_counting_says() -> None:
    found = win(outcomes(200, 0, 200))
    smallest = next(k for k in range(401) if stats.binom.sf(k - 1, 400, 0.5) <= 0.05)
    assert found.power == pytest.approx(stats.binom.sf(smallest - 1, 400, 0.6))
    assert found.power is not None
    assert found.power > 0.99


def test_the_prompts_needed_for_sixty_percent_are_those_of_the_textbook() -> None:
    # Fleiss, Statistical Methods for Rates and Proportions: ((z_a sqrt(p0 q0) + z_b sqrt(p1 q1)) / d)^2
    z_a, z_b = stats.norm.isf([0.05, 0.2])
    textbook = ((z_a * 0.5 + z_b * np.sqrt(0.24)) / 0.1) ** 2
    assert win(outcomes(20, 0, 20)).needed == np.ceil(textbook) == 153


def test_fewer_prompts_than_needed_have_less_power_than_wanted_and_more_have_more() -> None:
    needed = win(outcomes(20, 0, 20)).needed
    assert needed is not None
    assert win(outcomes(needed // 4, 0, needed // 4)).power < 0.8  # type: ignore[operator]
    assert win(outcomes(needed, 0, needed)).power > 0.8  # type: ignore[operator]


def test_a_mean_difference_has_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    policy, other = rng.normal(0.2, 1.0, 200), rng.normal(0.0, 1.0, 200)
    found = mean(policy - other, null=0.05)
    shifted = stats.ttest_rel(policy - 0.05, other, alternative="greater")
    assert found.p_value == pytest.approx(shifted.pvalue)
    assert found.effect == pytest.approx(0.2 * (policy - other).std(ddof=1))


def test_power_of_a_mean_difference_is_cohens() -> None:
    # G*Power 3 for one sample, one-sided: d = 0.2 has power 0.80 at n = 156.
    rng = np.random.default_rng(0)
    assert mean(rng.normal(size=156)).power == pytest.approx(0.80, abs=0.005)
    assert mean(rng.normal(size=50)).needed == pytest.approx(156, abs=2)


def test_differences_that_never_vary_are_counted_by_their_sign() -> None:
    assert mean(np.full(10, 0.0)).p_value == 1.0
    assert mean(np.full(10, 0.0), null=-0.1, effect=0.1).p_value == pytest.approx(0.5**10)


def test_an_effect_that_points_the_wrong_way_needs_no_number_of_prompts() -> None:
    assert win(outcomes(10, 0, 30)).needed_observed is None
    assert mean(np.linspace(-2, 1, 30)).needed_observed is None
    assert prompts_needed(0.0, 1.0, alpha=0.05, power=0.8) is None


@pytest.mark.parametrize("differences", [np.array([1.0]), np.array([1.0, np.nan]), np.ones((2, 2))])
def test_what_cannot_be_tested_is_an_error(differences: Values) -> None:
    for test in (win, mean):
        with pytest.raises(EvaluationError):
            test(differences)


def test_with_many_ties_an_equal_policy_is_still_promoted_no_more_often_than_alpha() -> None:
    rng = np.random.default_rng(0)
    draws = rng.choice([-1.0, 0.0, 1.0], p=[0.3, 0.4, 0.3], size=(2000, 120))
    p_values = [
        stats.binomtest(int((d > 0).sum()), int((d != 0).sum()), alternative="greater").pvalue for d in draws
    ]
    assert np.mean(np.array(p_values) <= 0.05) <= 0.06
    assert win(draws[0]).p_value == p_values[0]
