"""The baselines that a reward model has to beat."""

import tracemalloc

import pytest

from rlhf.errors import DataError
from rlhf.evaluation.baselines import BagOfWords, BagOfWordsRidge, longer_wins_accuracy

POLITE = [(f"Dear customer {i}, we are sorry", f"No. Your problem {i}, go away") for i in range(20)]


def test_longer_wins_counts_equal_lengths_half() -> None:
    assert longer_wins_accuracy([("long one", "short"), ("abc", "xyz"), ("a", "bb")]) == pytest.approx(0.5)


def test_the_bag_of_words_learns_the_words_that_win() -> None:
    model = BagOfWords.fit(POLITE)
    unseen = [("Dear customer 77, we are sorry", "No. Your problem 77, go away")]
    assert model.accuracy(unseen) == 1.0


def test_swapping_the_sides_mirrors_the_accuracy() -> None:
    model = BagOfWords.fit(POLITE[:5])
    mixed = POLITE[5:10] + [(rejected, chosen) for chosen, rejected in POLITE[10:13]]
    swapped = [(rejected, chosen) for chosen, rejected in mixed]
    assert model.accuracy(mixed) == pytest.approx(1 - model.accuracy(swapped))


def test_answers_of_unknown_words_are_a_coin_toss() -> None:
    assert BagOfWords.fit(POLITE).accuracy([("漢字", "🙂"), ("zzz", "qqq")]) == 0.5


def test_no_pairs_and_no_words_are_errors() -> None:
    with pytest.raises(DataError, match="at least one pair"):
        BagOfWords.fit([])
    with pytest.raises(DataError, match="at least one pair"):
        longer_wins_accuracy([])
    with pytest.raises(DataError, match="no words"):
        BagOfWords.fit([("!!", "??")])


def test_the_ridge_learns_which_words_are_rated_high_and_falls_back_on_the_mean() -> None:
    texts = [f"{word} reply {n}" for n in range(20) for word in ("kind", "rude")]
    ridge = BagOfWordsRidge.fit(texts, [4.0, 2.0] * 20)
    kind, rude, neither = ridge.predict(["a kind word", "a rude word", "hm"])
    assert kind > 3.5 > 2.5 > rude
    assert neither == pytest.approx(3.0, abs=0.2)
    with pytest.raises(DataError, match="no words"):
        BagOfWordsRidge.fit(["!", "?"], [1.0, 2.0])


def test_the_ridge_needs_no_table_of_answers_by_answers() -> None:
    texts = [f"word{n % 997} word{n % 1009} word{n % 1013}" for n in range(8_000)]
    tracemalloc.start()
    ridge = BagOfWordsRidge.fit(texts, [float(n % 997 < 500) for n in range(8_000)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000**2  # bytes; the table has eight times as many
    low, high = ridge.predict(["word900 word900 word900", "word100 word100 word100"])
    assert low < high
