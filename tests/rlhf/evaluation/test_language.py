import pytest

from rlhf.evaluation.language import distinct_n, language_match, language_of, repetition

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


@pytest.mark.parametrize(("text", "code"), [(ENGLISH, "en"), (GERMAN, "de"), (FRENCH, "fr")])
def test_a_language_is_recognised(text: str, code: str) -> None:
    assert language_of(text) == code


@pytest.mark.parametrize("text", ["", "OK.", "1234-5678 / 90,000.00 (2026-11-21)"])
def test_a_text_that_says_too_little_has_no_language(text: str) -> None:
    assert language_of(text) is None


def test_only_decided_pairs_are_compared_and_the_last_turn_asks() -> None:
    chat = [
        {"role": "user", "content": FRENCH},
        {"role": "assistant", "content": "Oui."},
        {"role": "user", "content": GERMAN},
    ]
    found = language_match([ENGLISH, ENGLISH, chat, "Hi"], [ENGLISH, GERMAN, GERMAN, ENGLISH])  # type: ignore[list-item]
    assert (found.alike, found.decided) == (2, 3)
