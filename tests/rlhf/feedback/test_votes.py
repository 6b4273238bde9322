import math

import pytest

from rlhf.feedback.votes import (
    Ranking,
    Score,
    edit_distance,
    settled_labels,
    votes_from_consensus,
    votes_from_discarded,
    votes_from_labels,
    votes_from_ranking,
    votes_from_ratings,
)


@pytest.mark.parametrize(
    ("which", "expected"),
    [("all", {"ab", "ac", "ad", "bd", "cd"}), ("adjacent", {"ab", "ac", "bd", "cd"})],
)
def test_a_ranking_gives_pairs_of_different_rank(which: str, expected: set[str]) -> None:
    ranking = Ranking("p", "q", ["a", "b", "c", "d"], [1, 2, 2, 5], "r")
    votes = votes_from_ranking(ranking, which)  # type: ignore[arg-type]
    assert {v.preferred + v.other for v in votes} == expected


def test_the_margin_of_a_ranked_pair_is_the_number_of_ranks_between() -> None:
    votes = votes_from_ranking(Ranking("p", "q", ["a", "b", "c"], [7, 1, 3], "r"), "all")
    assert {v.preferred + v.other: v.margin for v in votes} == {"bc": 1.0, "ba": 2.0, "ca": 1.0}


def test_rankings_of_several_annotators_become_one_order_with_margins() -> None:
    rankings = [
        Ranking("p", "q", ["a", "b", "c"], [1, 2, 3], "r2"),
        Ranking("p", "q", ["a", "b", "c"], [1, 3, 2], "r1"),
        Ranking("p", "q", ["c", "b", "a"], [2, 1, 2], "r3"),
        Ranking("p", "other", ["a", "b"], [2, 1], "r4"),
    ]
    votes, left_out = votes_from_consensus(rankings, "all")
    assert {v.preferred + v.other for v in votes} == {"ab", "ac", "bc", "ba"}
    margins = {v.preferred + v.other: v.margin for v in votes if v.record_id == "r1"}
    assert margins["ac"] == pytest.approx(margins["ab"] + margins["bc"])
    assert all(v.certainty == pytest.approx(1 / (1 + math.exp(-v.margin))) for v in votes)
    assert left_out == {}
    neighbours, _ = votes_from_consensus(rankings, "adjacent")
    assert {v.preferred + v.other for v in neighbours} == {"ab", "bc", "ba"}
    assert votes_from_consensus(rankings[::-1], "all") == (votes, {})


def test_responses_that_nobody_ranked_together_are_not_compared() -> None:
    rankings = [
        Ranking("p", "q", ["a", "b"], [1, 2], "r"),
        Ranking("p", "q", ["c", "d"], [1, 2], "r"),
        Ranking("p", "q", ["e", "f"], [1, 1], "r"),
    ]
    votes, left_out = votes_from_consensus(rankings, "all")
    assert {v.preferred + v.other for v in votes} == {"ab", "cd"}
    assert left_out == {"responses of equal strength": 1}


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


def test_divided_labels_make_an_uncertain_vote() -> None:
    scores = [score("a", 1), score("a", 1), score("a", 0), score("b", 0)]
    (sure,), _ = votes_from_labels([score("a", 1), score("b", 0)], most=10)
    (vote,), _ = votes_from_labels(scores, most=10)
    assert (sure.certainty, vote.certainty) == (1.0, 1.0)  # who calls b bad leaves no doubt about the order
    (vote,), _ = votes_from_labels([*scores, score("b", 0), score("b", 1)], most=10)
    assert vote.certainty == pytest.approx((2 / 3 * 2 / 3) / (2 / 3 * 2 / 3 + 1 / 3 * 1 / 3))


def test_dawid_skene_turns_the_labels_of_an_adversary_round() -> None:
    scores = []
    for n in range(40):
        good = n % 2
        for who, value in (("ada", good), ("ben", good), ("eve", 1 - good), ("eva", 1 - good)):
            scores.append(Score("p", "q", f"{'good' if good else 'bad'} {n}", value, "r", who))
        if n < 20:  # a third honest one for some, so that the honest are the majority there
            scores.append(Score("p", "q", f"{'good' if good else 'bad'} {n}", good, "r", "cid"))
    shares = settled_labels(scores, "dawid_skene")["p", "q"]
    assert all((share > 0.9) == response.startswith("good") for response, (share, _) in shares.items())
    undecided = settled_labels(scores, "majority")["p", "q"]
    assert sum(share == 0.5 for share, _ in undecided.values()) == 20


def test_what_was_submitted_is_preferred_to_what_was_discarded() -> None:
    accepted = [score("a", 1), score("b", 1), score("x", 1), score("z", 1, "another question")]
    discarded = [score("c", 0), score("x", 0)]
    votes, left_out = votes_from_discarded(accepted, discarded, most=10)
    assert {(v.preferred, v.other, v.record_id) for v in votes} == {("a", "c", "r-a"), ("b", "c", "r-b")}
    assert left_out == {"submitted and discarded": 1}
    assert votes_from_discarded(accepted, discarded, most=1)[1]["beyond max_pairs_per_prompt"] == 1


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
