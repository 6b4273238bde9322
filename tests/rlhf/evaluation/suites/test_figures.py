"""Estimates against published values, and the cases in which an interval must not claim certainty."""

import numpy as np
import pytest
from scipy import stats

from rlhf.errors import EvaluationError
from rlhf.evaluation.suites.figures import (
    Estimator,
    Figure,
    SuiteResult,
    complete_items,
    numbered,
    paired_figure,
)
from rlhf.evaluation.win_rate import Estimate

ESTIMATOR = Estimator(confidence=0.95, seed=0)


def ones(hits: int, n: int) -> np.ndarray:
    return np.array([1.0] * hits + [0.0] * (n - hits))


def test_a_share_of_independent_items_has_wilsons_interval() -> None:
    found = ESTIMATOR.share(ones(81, 263), np.arange(263))  # Newcombe 1998, Statistics in Medicine 17:857
    assert (found.value, found.low, found.high) == pytest.approx((0.3080, 0.2553, 0.3662), abs=5e-5)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((56, 70), (48, 80), (0.2000, 0.0524, 0.3339)),
        ((9, 10), (3, 10), (0.6000, 0.1705, 0.8090)),
        ((10, 10), (0, 10), (1.0000, 0.6075, 1.0000)),
    ],
)
def test_a_contrast_has_newcombes_hybrid_interval(
    first: tuple[int, int], second: tuple[int, int], expected: tuple[float, float, float]
) -> None:
    # Newcombe 1998, Statistics in Medicine 17:873, table II, method 10
    found = ESTIMATOR.contrast(ones(*first), ones(*second))
    assert (found.value, found.low, found.high) == pytest.approx(expected, abs=1e-4)


def test_agreement_on_few_items_is_not_taken_for_certainty() -> None:
    same = np.zeros(8)
    found = ESTIMATOR.share_difference(same, same, np.arange(8))
    assert found.value == 0
    # of 8 items, none differs: as many as Wilson's bound of 0 of 8 may
    assert (found.low, found.high) == pytest.approx((-0.3244, 0.3244), abs=1e-4)
    share = ESTIMATOR.share(same, np.arange(8))
    assert (share.value, share.low) == (0.0, 0.0)
    assert share.high > 0.2


def test_the_interval_of_a_paired_difference_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(400):
        outcome = rng.choice(4, size=50, p=[0.15, 0.05, 0.5, 0.3])  # first only, second only, both, none
        first, second = np.isin(outcome, (0, 2)).astype(float), np.isin(outcome, (1, 2)).astype(float)
        found = ESTIMATOR.share_difference(first, second, np.arange(50))
        covered += found.low <= 0.1 <= found.high
    assert 0.93 <= covered / 400 <= 0.985


def test_items_that_share_a_template_count_as_one() -> None:
    rng = np.random.default_rng(1)
    hits = (rng.random(60) < 0.5).astype(float)
    alone = ESTIMATOR.share(hits, np.arange(60))
    copied = ESTIMATOR.share(np.tile(hits, 5), np.tile(np.arange(60), 5))
    assert copied.value == alone.value
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=0.1)


def test_clusters_of_different_size_are_weighted_by_their_items() -> None:
    found = ESTIMATOR.mean(np.array([1.0, 1.0, 1.0, 0.0, 0.5]), numbered("aaabc"))
    assert found.value == pytest.approx(3.5 / 5)


def test_a_correlation_is_pearsons_and_has_fishers_interval() -> None:
    x, y = np.array([1.0, 2, 3, 4, 5, 6]), np.array([2.0, 1, 4, 3, 7, 5])
    r = float(np.corrcoef(x, y)[0, 1])
    half = stats.norm.ppf(0.975) / np.sqrt(len(x) - 3)
    found = ESTIMATOR.correlation(x, y)
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx(
        (r, np.tanh(np.arctanh(r) - half), np.tanh(np.arctanh(r) + half))
    )
    assert ESTIMATOR.correlation(x, np.ones(6)) is None


def test_a_gap_is_the_largest_difference_of_group_means_and_covers_a_planted_one() -> None:
    rng = np.random.default_rng(0)
    groups = [rng.normal(mean, 1.0, 200) for mean in (0.0, 0.1, 1.0)]
    found = ESTIMATOR.gap(groups)
    assert found is not None
    assert found.value == pytest.approx(max(g.mean() for g in groups) - min(g.mean() for g in groups))
    assert found.low < 1.0 < found.high
    assert ESTIMATOR.gap([np.zeros(1), np.zeros(5)]) is None


def test_a_paired_figure_has_differences_from_the_models_that_are_there() -> None:
    values = {"policy": ones(30, 40), "sft": ones(10, 40)}
    figure = paired_figure("f", "", values, np.arange(40), ESTIMATOR)  # type: ignore[arg-type]
    assert figure.estimates["policy"].value == 0.75
    assert set(figure.differences) == {"sft"}
    assert figure.differences["sft"].value == pytest.approx(0.5)
    assert figure.differences["sft"].low > 0


def test_a_bound_that_is_not_known_is_not_reported() -> None:
    unknown = Estimate(0.5, float("nan"), float("nan"))
    result = SuiteResult("s", "", "", 0, [Figure("f", "", {"policy": unknown})])
    assert result.metrics() == {"eval/s/f/policy": 0.5}


def test_items_that_some_model_could_not_answer_are_left_out_for_all() -> None:
    answers = {"policy": ["a", None, "c", "d"], "sft": ["a", "b", "c", None]}
    assert complete_items("s", answers).tolist() == [0, 2]  # type: ignore[arg-type]
    with pytest.raises(EvaluationError, match=r"Of the 2 items of .* only 1 fit"):
        complete_items("s", {"policy": ["a", None]})
