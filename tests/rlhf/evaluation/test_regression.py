"""Figures of a fit against scipy's and scikit-learn's, and what they say of useless predictions."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import r2_score, root_mean_squared_error

from rlhf.errors import DataError
from rlhf.evaluation.regression import regression_figures

RNG = np.random.default_rng(0)
ACTUAL = RNG.integers(1, 6, 200).astype(float)
PREDICTED = ACTUAL + RNG.normal(0, 1, 200).round(1)


def test_the_figures_are_those_of_scipy_and_scikit_learn() -> None:
    assert regression_figures(PREDICTED, ACTUAL, intervals=False) == pytest.approx(
        {
            "pearson": stats.pearsonr(PREDICTED, ACTUAL).statistic,
            "spearman": stats.spearmanr(PREDICTED, ACTUAL).statistic,
            "r2": r2_score(ACTUAL, PREDICTED),
            "rmse": root_mean_squared_error(ACTUAL, PREDICTED),
        }
    )


def test_intervals_hold_their_figure_and_about_the_width_of_fishers() -> None:
    figures = regression_figures(PREDICTED, ACTUAL, intervals=True)
    for name in ("pearson", "spearman", "r2", "rmse"):
        assert figures[f"{name}_low"] < figures[name] < figures[f"{name}_high"]
    fisher = stats.pearsonr(PREDICTED, ACTUAL).confidence_interval()
    assert figures["pearson_low"] == pytest.approx(fisher.low, abs=0.03)
    assert figures["pearson_high"] == pytest.approx(fisher.high, abs=0.03)
    assert regression_figures(PREDICTED, ACTUAL, intervals=True) == figures


def test_a_constant_prediction_has_an_error_but_no_correlation() -> None:
    figures = regression_figures(np.full(200, ACTUAL.mean()), ACTUAL, intervals=True)
    assert set(figures) == {f"{name}{end}" for name in ("r2", "rmse") for end in ("", "_low", "_high")}
    assert figures["r2"] == pytest.approx(0.0)
    assert figures["rmse"] == pytest.approx(ACTUAL.std())


def test_equal_ratings_explain_nothing() -> None:
    assert set(regression_figures([1.0, 2.0, 3.0], [2.0, 2.0, 2.0], intervals=False)) == {"rmse"}


@pytest.mark.parametrize(("predicted", "actual"), [([], []), ([1.0], [1.0, 2.0])])
def test_without_a_prediction_for_each_rating_there_is_no_fit(
    predicted: list[float], actual: list[float]
) -> None:
    with pytest.raises(DataError, match="one prediction for each rating"):
        regression_figures(predicted, actual, intervals=False)
