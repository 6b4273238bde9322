import pytest

from rlhf.evaluation.language import distinct_n, language_match, length_histogram, repetition

ENGLISH = "Where is my parcel? I ordered it two weeks ago and have heard nothing since."
GERMAN = "Ihr Paket wurde gestern verschickt und sollte morgen bei Ihnen eintreffen."
FRENCH = "Votre colis a été expédié hier et devrait vous parvenir demain matin."


def test_distinct_n_counts_distinct_over_all() -> None:
    assert distinct_n([[1, 2, 1], [1, 2]], 1) == 2 / 5
    assert distinct_n([[1, 2, 1], [1, 2]], 2) == 2 / 3
    assert distinct_n([[1]], 2) == 0.0


def test_repetition_is_the_share_of_four_grams_that_stood_there_before() -> None:
    assert repetition([1, 2, 3, 4, 5, 6, 7]) == 0.0
    # 1234 2341 3412 4123 1234: the last of five is a repetition.
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)
    assert repetition([7] * 10) == pytest.approx(6 / 7)
    assert repetition([1, 2, 3]) == 0.0


def test_only_decided_pairs_are_compared_and_the_last_turn_asks() -> None:
    chat = [
        {"role": "user", "content": FRENCH},
        {"role": "assistant", "content": "Oui."},
        {"role": "user", "content": GERMAN},
    ]
    found = language_match([ENGLISH, ENGLISH, chat, "Hi"], [ENGLISH, GERMAN, GERMAN, ENGLISH])  # type: ignore[list-item]
    assert (found.alike, found.decided) == (2, 3)


def test_lengths_are_counted_in_common_bins_of_whole_tokens() -> None:
    found = length_histogram({"policy": [1, 2, 40], "sft": [3, 3, 3, 64]}, bins=16)
    assert found.edges[:3] == [0.0, 4.0, 8.0]
    assert found.edges[-1] == 64.0
    assert found.shares["policy"][0] == pytest.approx(2 / 3)
    assert found.shares["policy"][10] == pytest.approx(1 / 3)
    assert (found.shares["sft"][0], found.shares["sft"][-1]) == (0.75, 0.25)
