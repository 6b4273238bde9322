import math

import numpy as np
import pytest
from scipy.optimize import minimize

from rlhf.feedback.aggregation.bradley_terry import bradley_terry, wins_of_rankings


def test_two_responses_have_the_log_odds_of_their_wins() -> None:
    strengths = bradley_terry(np.array([[0.0, 3.0], [1.0, 0.0]]), smoothing=0)
    assert strengths[0] - strengths[1] == pytest.approx(math.log(3))
    assert strengths.sum() == pytest.approx(0)
    smoothed = bradley_terry(np.array([[0.0, 3.0], [0.0, 0.0]]))
    assert smoothed[0] - smoothed[1] == pytest.approx(math.log(3.5 / 0.5))


def test_the_strengths_maximise_the_likelihood() -> None:
    rng = np.random.default_rng(0)
    wins = rng.integers(1, 6, (5, 5)).astype(float)
    np.fill_diagonal(wins, 0)

    def loss(strengths: np.ndarray) -> float:
        return float((wins * np.logaddexp(0, strengths[None, :] - strengths[:, None])).sum())

    best = minimize(loss, np.zeros(5), tol=1e-12).x
    assert np.allclose(bradley_terry(wins, smoothing=0), best - best.mean(), atol=1e-4)


def test_rankings_recover_the_strengths_that_they_were_drawn_from() -> None:
    rng = np.random.default_rng(1)
    true = np.array([1.5, 0.5, 0.0, -0.5, -1.5])
    names = list("abcde")
    rankings = []
    for _ in range(2000):  # a Gumbel for each response gives Bradley-Terry choices between any two
        order = np.argsort(-(true + rng.gumbel(size=5)))
        rankings.append({names[at]: place for place, at in enumerate(order, 1)})
    assert np.allclose(bradley_terry(wins_of_rankings(rankings, names)), true, atol=0.12)


def test_a_tie_is_half_a_win_for_both() -> None:
    wins = wins_of_rankings([{"a": 1, "b": 1, "c": 2}, {"c": 1, "a": 3}], ["a", "b", "c"])
    assert wins.tolist() == [[0, 0.5, 1], [0.5, 0, 1], [1, 0, 0]]


def test_what_nobody_compared_stays_finite() -> None:
    strengths = bradley_terry(np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    assert np.isfinite(strengths).all()
    assert strengths[0] > strengths[1]
