import math
import random

import pytest

from rlhf.feedback.pairs import Pair, settle
from rlhf.feedback.votes import Vote


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


def test_a_vote_that_is_itself_uncertain_counts_by_its_certainty() -> None:
    (pair,), _ = settle([vote("a", "b", certainty=0.8), vote("a", "b"), vote("b", "a", certainty=0.6)])
    assert pair.chosen == "a"
    assert pair.agreement == pytest.approx((0.8 + 1.0 + 0.4) / 3)


def test_confidence_and_log_odds_follow_from_the_agreement() -> None:
    divided = Pair("p", "a", "b", "r", agreement=0.75, margin=0.0, votes=4)
    assert divided.confidence == pytest.approx(0.5)
    assert divided.log_odds == pytest.approx(math.log(3.5 / 1.5))
    alone = Pair("p", "a", "b", "r", agreement=1.0, margin=0.0, votes=1)
    assert alone.log_odds == pytest.approx(math.log(3.0))


def crowd(seed: int) -> tuple[list[Vote], int]:
    """Votes of six on 300 pairs: three are good, three choose the first answer whatever it says."""
    rng = random.Random(seed)
    votes = []
    for item in range(300):
        first, second = (
            (f"good {item}", f"bad {item}") if rng.random() < 0.5 else (f"bad {item}", f"good {item}")
        )
        for person in range(6):
            right = rng.random() < (0.9 if person < 3 else 0.5)
            swapped = (first[0] == "g") != right if person < 3 else rng.random() < 0.05
            preferred, other = (second, first) if swapped else (first, second)
            votes.append(Vote(str(item), preferred, other, "r", annotator=f"a{person}", swapped=swapped))
    return votes, 300


def test_dawid_skene_hears_through_those_who_prefer_the_first_answer() -> None:
    votes, count = crowd(0)

    def right(method: str) -> float:
        return sum(pair.chosen[0] == "g" for pair in settle(votes, method)[0]) / count  # type: ignore[arg-type]

    print(f"majority {right('majority'):.3f}, Dawid-Skene {right('dawid_skene'):.3f}")
    assert right("dawid_skene") > 0.93 > right("majority") + 0.1


def test_dawid_skene_settles_the_same_whatever_the_order_of_votes_and_sides() -> None:
    votes, _ = crowd(1)
    shuffled = random.Random(2).sample(votes, len(votes))
    assert settle(votes, "dawid_skene") == settle(shuffled, "dawid_skene")


def test_dawid_skene_leaves_out_what_is_most_likely_a_tie() -> None:
    names = ["ada", "ben", "cid"]
    clear = [Vote(str(n), "a", "b", "r", annotator=who) for n in range(20) for who in names]
    ties = [Vote("tied", "a", "b", "r", tie=True, annotator=who) for who in names[:2]]
    pairs, left_out = settle([*clear, *ties, Vote("tied", "a", "b", "r", annotator="cid")], "dawid_skene")
    assert len(pairs) == 20
    assert left_out == {"settled as a tie": 1}
    assert all(pair.agreement > 0.99 for pair in pairs)
