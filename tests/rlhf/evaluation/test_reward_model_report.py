"""Accuracy by slice, calibration and human agreement against numbers worked out another way."""

from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from scipy.special import expit
from sklearn.calibration import calibration_curve

from rlhf.errors import EvaluationError
from rlhf.evaluation.reward_model_report import (
    RewardModelEvidence,
    calibration,
    examine_reward_model,
    pair_accuracy,
    reward_model_metrics,
    reward_model_section,
)
from rlhf.evaluation.settings import EvaluationSettings
from rlhf.report import ReportBuilder


def pair(number: int, chosen: str, rejected: str, **more: Any) -> dict[str, Any]:
    columns = {"margin": 0.0, "agreement": 1.0, "votes": 1, "source": "a"}
    sides = {
        side: [{"role": "assistant", "content": text}]
        for side, text in (("chosen", chosen), ("rejected", rejected))
    }
    return {"prompt": [{"role": "user", "content": f"q{number}"}], **sides, **columns, **more}


def examined(gaps: list[float], rows: list[dict[str, Any]], **more: Any) -> RewardModelEvidence:
    return examine_reward_model(np.array(gaps), Dataset.from_list(rows), confidence=0.95, seed=0, **more)


def test_slices_hold_the_pairs_that_their_names_say() -> None:
    rows = [
        pair(0, "x" * 13, "x" * 10, margin=1.0, source="b"),
        pair(1, "x" * 11, "x" * 10, margin=2.0, votes=4, agreement=0.6),
        pair(2, "x" * 10, "x" * 11, margin=3.0, votes=4, agreement=0.75),
        pair(3, "x" * 10, "x" * 13, votes=3, agreement=1.0),
    ]
    found = examined([1.0, -1.0, 1.0, 0.0], rows)
    of = {cut.name: (cut.pairs, cut.accuracy.value, cut.longer_wins) for cut in found.slices}
    assert of == {
        "chosen_longer": (1, 1.0, 1.0),
        "similar_length": (2, 0.5, 0.5),
        "chosen_shorter": (1, 0.5, 0.0),
        "small_margin": (1, 1.0, 1.0),
        "medium_margin": (1, 0.0, 1.0),
        "large_margin": (1, 1.0, 0.0),
        "single_vote": (1, 1.0, 1.0),
        "close_votes": (1, 0.0, 1.0),
        "clear_votes": (1, 1.0, 0.0),
        "unanimous_votes": (1, 0.5, 0.0),
        "a": (3, 0.5, 1 / 3),
        "b": (1, 1.0, 1.0),
    }
    assert (found.pairs, found.accuracy.value, found.longer_wins) == (4, 0.625, 0.5)


def test_pairs_of_one_prompt_are_not_counted_as_independent() -> None:
    right = np.random.default_rng(0).integers(0, 2, 60).astype(float)
    own = pair_accuracy(right, np.arange(60), confidence=0.95, seed=0)
    shared = pair_accuracy(np.repeat(right, 4), np.repeat(np.arange(60), 4), confidence=0.95, seed=0)
    assert shared.value == own.value
    assert shared.high - shared.low == pytest.approx(own.high - own.low, rel=0.1)


def test_calibration_bins_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    gaps = rng.normal(0.8, 1.5, 800)
    found = calibration(gaps)
    certainty, right = expit(np.abs(gaps)), gaps > 0
    # Its bins run from 0 to 1: of 20, the upper ten are ours.
    accuracy, confidence = calibration_curve(right, certainty, n_bins=20)
    assert [b.accuracy for b in found.bins] == pytest.approx(list(accuracy))
    assert [b.confidence for b in found.bins] == pytest.approx(list(confidence))
    assert sum(b.pairs for b in found.bins) == 800
    weights = np.array([b.pairs for b in found.bins]) / 800
    assert found.ece == pytest.approx(float(weights @ np.abs(accuracy - confidence)))


def test_a_model_that_means_its_odds_is_calibrated_and_an_overconfident_one_is_not() -> None:
    rng = np.random.default_rng(2)
    odds = rng.normal(0, 2, 20_000)
    # People choose by these odds; the gap is from the chosen to the rejected answer.
    gaps = np.where(rng.random(20_000) < expit(odds), odds, -odds)
    assert calibration(gaps).ece < 0.01
    assert calibration(3 * gaps).ece > 0.08


def test_a_model_of_ratings_claims_no_probabilities() -> None:
    rows = [pair(i, "a", "b") for i in range(3)]
    assert examined([1.0, 2.0, 3.0], rows, log_odds=False).calibration is None


def test_agreement_is_that_of_two_people_drawn_at_random() -> None:
    votes = [(4, 1), (3, 0), (3, 2), (2, 0)]  # for the chosen answer, for the rejected one
    rows = [pair(i, "a", "b", votes=f + a, agreement=f / (f + a)) for i, (f, a) in enumerate(votes)] + [
        pair(9, "a", "b")
    ]
    found = examined([1.0, 1.0, -1.0, 1.0, -1.0], rows).humans
    assert found is not None
    alike = [
        np.mean([x == y for i, x in enumerate(people) for j, y in enumerate(people) if i != j])
        for people in ([1] * f + [0] * a for f, a in votes)
    ]
    assert found.pairs == 4
    assert found.among_humans.value == pytest.approx(np.mean(alike))
    assert found.with_humans.value == pytest.approx(np.mean([4 / 5, 1, 2 / 5, 1]))
    assert found.ceiling == pytest.approx(np.mean([4 / 5, 1, 3 / 5, 1]))


def test_probabilities_of_a_model_of_the_annotators_are_not_taken_for_shares_of_votes() -> None:
    rows = [pair(i, "a", "b", votes=3, agreement=0.97) for i in range(4)]
    assert examined([1.0] * 4, rows).humans is None


def test_every_figure_has_a_name_that_a_config_can_be_checked_against() -> None:
    rows = [
        pair(i, "a" * (1 + i % 3), "bb", margin=float(i % 4), votes=1 + i % 4, agreement=1.0)
        for i in range(24)
    ]
    found = examined([1.0, -1.0] * 12, rows, bag_of_words=0.7)
    metrics = reward_model_metrics("judge", found)
    assert set(metrics) <= EvaluationSettings().figure_names()
    assert metrics["eval/rm/judge/bag_of_words_accuracy"] == 0.7
    assert {"eval/rm/judge/ece", "eval/rm/judge/agreement_among_humans"} <= set(metrics)
    builder = ReportBuilder("r")
    reward_model_section(builder, {"judge": found})
    assert "Reliability" in builder.build().html


def test_gaps_of_other_pairs_are_refused() -> None:
    with pytest.raises(EvaluationError, match="not by 1 for 2"):
        examined([1.0], [pair(0, "a", "b"), pair(1, "a", "b")])
