import random

import pytest

from rlhf.feedback.pairs import (
    Score,
    Vote,
    edit_distance,
    settle,
    votes_from_labels,
    votes_from_ranking,
    votes_from_ratings,
)


def vote(preferred: str, other: str, record_id: str = "r", **more: object) -> Vote:
    return Vote("p", preferred, other, record_id, **more)  # type: ignore[arg-type]


def test_the_majority_wins_whichever_side_a_response_was_shown_on() -> None:
    (pair,), left_out = settle(
        [vote("a", "b", "r2"), vote("b", "a"), vote("a", "b"), vote("b", "a", tie=True)]
    )
    assert (pair.chosen, pair.rejected, pair.record_id) == ("a", "b", "r")
    assert pair.agreement == pytest.approx(2 / 3)
    assert left_out == {}


@pytest.mark.parametrize(
    ("votes", "reason"),
    [
        ([vote("a", "b"), vote("b", "a")], "no majority"),
        ([vote("a", "b", tie=True), vote("b", "a", tie=True)], "ties only"),
        ([vote("a", "a")], "both sides are equal"),
    ],
)
def test_undecided_pairs_are_left_out_and_counted(votes: list[Vote], reason: str) -> None:
    assert settle(votes) == ([], {reason: 1})


def test_the_margin_is_the_mean_over_the_majority_that_has_one() -> None:
    (pair,), _ = settle(
        [vote("a", "b", margin=1.0), vote("a", "b", margin=2.0), vote("a", "b"), vote("b", "a")]
    )
    assert pair.margin == pytest.approx(1.5)


def test_the_order_of_votes_does_not_matter() -> None:
    rng = random.Random(0)
    votes = [
        Vote(rng.choice("pq"), *rng.sample("abcd", 2), rng.choice("rst"), margin=rng.choice([None, 0.1, 0.7]))
        for _ in range(60)
    ]
    assert settle(votes) == settle(rng.sample(votes, len(votes)))


@pytest.mark.parametrize(
    ("which", "expected"),
    [("all", {"ab", "ac", "ad", "bd", "cd"}), ("adjacent", {"ab", "ac", "bd", "cd"})],
)
def test_a_ranking_gives_pairs_of_different_rank(which: str, expected: set[str]) -> None:
    votes = votes_from_ranking("p", ["a", "b", "c", "d"], [1, 2, 2, 5], "r", which)  # type: ignore[arg-type]
    assert {v.preferred + v.other for v in votes} == expected


def score(response: str, value: float, question: str = "q") -> Score:
    return Score("p", question, response, value, f"r-{response}")


def test_mean_ratings_far_enough_apart_give_pairs_with_the_gap_as_margin() -> None:
    scores = [score("a", 5), score("a", 4), score("b", 3), score("c", 2.5)]
    votes, left_out = votes_from_ratings(scores, gap=1.5, most=10)
    assert {(v.preferred, v.other, v.margin) for v in votes} == {("a", "b", 1.5), ("a", "c", 2.0)}
    assert left_out == {"ratings closer than rating_gap": 1}


def test_ratings_of_different_questions_are_not_compared() -> None:
    assert votes_from_ratings([score("a", 5, "helpful"), score("b", 1, "honest")], 1.0, 10)[0] == []


def test_of_too_many_rating_pairs_the_clearest_are_kept() -> None:
    scores = [score(str(n), float(n)) for n in range(6)]
    votes, left_out = votes_from_ratings(scores, gap=1.0, most=3)
    assert [v.margin for v in votes] == [5.0, 4.0, 4.0]
    assert left_out == {"beyond max_pairs_per_prompt": 12}


def test_good_responses_are_preferred_to_bad_ones_by_majority_of_labels() -> None:
    scores = [score("a", 1), score("a", 1), score("a", 0), score("b", 0), score("c", 1), score("c", 0)]
    votes, left_out = votes_from_labels(scores, most=10)
    assert [(v.preferred, v.other) for v in votes] == [("a", "b")]
    assert left_out == {"as many good as bad labels": 1}


def test_labels_without_a_counterpart_are_counted() -> None:
    assert votes_from_labels([score("a", 1), score("b", 1)], 10) == (
        [],
        {"labelled responses without a counterpart": 2},
    )


def test_of_too_many_label_pairs_each_response_is_used_about_equally() -> None:
    scores = [score(f"good {n}", 1) for n in range(4)] + [score(f"bad {n}", 0) for n in range(4)]
    votes, left_out = votes_from_labels(scores, most=8)
    assert len({(v.preferred, v.other) for v in votes}) == 8
    assert {sum(v.preferred == f"good {n}" for v in votes) for n in range(4)} == {2}
    assert {sum(v.other == f"bad {n}" for v in votes) for n in range(4)} == {2}
    assert left_out == {"beyond max_pairs_per_prompt": 8}


def test_edit_distance_is_the_share_of_changed_words() -> None:
    assert edit_distance("one two three four", "one two three four") == 0
    assert edit_distance("one two three four", "one two 3 four") == pytest.approx(0.25)
    assert edit_distance("one", "two") == 1
