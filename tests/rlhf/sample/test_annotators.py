import math
import random
from collections import Counter

import pytest

from rlhf.sample.annotators import (
    ADVERSARIAL,
    ANNOTATORS,
    BIASED,
    CARELESS,
    Annotator,
    choose_annotators,
    judge,
    rate,
)


def _votes(annotator: Annotator, first: float, second: float, *, noise: float = 1.0) -> Counter[int | None]:
    rng = random.Random(11)
    return Counter(judge(annotator, first, second, rng, noise=noise) for _ in range(20_000))


def test_choices_have_the_probabilities_of_davidsons_model() -> None:
    annotator = Annotator("someone", temperature=0.5, ties=0.4)
    strengths = math.exp(1.0 / 0.5), math.exp(0.6 / 0.5)
    tie = 0.4 * math.sqrt(strengths[0] * strengths[1])
    votes, total = _votes(annotator, 1.0, 0.6), sum(strengths) + tie
    for choice, weight in ((0, strengths[0]), (1, strengths[1]), (None, tie)):
        assert votes[choice] / votes.total() == pytest.approx(weight / total, abs=0.015)


def test_without_noise_the_better_reply_always_wins() -> None:
    assert _votes(Annotator("someone", temperature=0.5), 1.0, 0.9, noise=0.0) == {0: 20_000}
    assert _votes(Annotator("someone", temperature=0.5), 1.0, 1.0, noise=0.0) == {None: 20_000}


def test_hardly_any_noise_does_not_overflow() -> None:
    assert _votes(Annotator("someone", temperature=1.0), -2.0, 5.0, noise=1e-9) == {1: 20_000}


def test_the_biased_annotator_prefers_the_first_of_equal_replies() -> None:
    votes = _votes(BIASED, 2.0, 2.0)
    assert votes[0] > 2 * votes[1]


def test_the_adversarial_annotator_mostly_picks_the_worse_reply() -> None:
    votes = _votes(ADVERSARIAL, 4.0, 1.0)
    assert votes[0] / votes.total() < 0.2


def test_there_are_at_least_seven_annotators_of_different_names() -> None:
    assert len({annotator.name for annotator in ANNOTATORS}) == len(ANNOTATORS) >= 7


def test_nobody_judges_a_pair_twice_and_the_busy_judge_more() -> None:
    rng = random.Random(5)
    drawn = [choose_annotators(3, rng) for _ in range(3000)]
    assert all(len({a.name for a in group}) == 3 for group in drawn)
    load = Counter(a.name for group in drawn for a in group)
    assert load["ben"] > load["ada"] > load[ADVERSARIAL.name]


def test_ratings_are_whole_stars_that_follow_the_utility() -> None:
    rng = random.Random(6)
    low, high = ([rate(ANNOTATORS[0], u, rng) for _ in range(500)] for u in (-1.0, 4.5))
    assert {*low, *high} <= {1.0, 2.0, 3.0, 4.0, 5.0}
    assert sum(high) > sum(low) + 1000


def test_the_careless_annotators_ratings_say_nothing() -> None:
    rng = random.Random(7)
    low, high = ([rate(CARELESS, u, rng) for _ in range(2000)] for u in (-1.0, 4.5))
    assert abs(sum(high) - sum(low)) / 2000 < 0.4
