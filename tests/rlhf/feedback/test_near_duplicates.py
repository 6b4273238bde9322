import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.feedback.near_duplicates import bands_and_rows, jaccard, near_duplicates, shingles


def texts(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 9))) for _ in range(3000)]
    return [" ".join(rng.choices(words, k=rng.randint(12, 60))) for _ in range(count)]


@given(st.text(max_size=40), st.text(max_size=40))
def test_jaccard_is_that_of_the_sets_of_five_character_runs(left: str, right: str) -> None:
    def runs(text: str) -> set[str]:
        plain = " ".join(text.casefold().split()).ljust(5, "\0")
        return {plain[at : at + 5] for at in range(len(plain) - 4)}

    one, other = runs(left), runs(right)
    assert jaccard(shingles(left), shingles(right)) == pytest.approx(len(one & other) / len(one | other))


def test_case_and_spacing_make_no_difference() -> None:
    held_out = "Where is my  parcel?\nIt was sent last week."
    training = {"same": "where is my parcel? It was sent LAST week.", "other": "When do you open on Sundays?"}
    assert near_duplicates(training, [held_out], 1.0) == {"same"}


def test_what_is_found_is_exactly_similar_enough_and_little_is_missed() -> None:
    held_out = texts(400, seed=1)
    edited = {str(n): text.replace(text.split()[3], "zz", 1) for n, text in enumerate(held_out)}
    threshold = 0.8
    true = {
        key
        for key, text in edited.items()
        if jaccard(shingles(text), shingles(held_out[int(key)])) >= threshold
    }
    found = near_duplicates(edited, held_out, threshold)
    assert 300 < len(true) < 400
    assert found <= true
    assert len(found) >= 0.98 * len(true)


def test_the_order_of_neither_side_matters() -> None:
    held_out = texts(60, seed=2)
    training = {str(n): text + " more" for n, text in enumerate(held_out + texts(60, seed=3))}
    backwards = dict(reversed(training.items()))
    assert (
        near_duplicates(training, held_out, 0.8) == near_duplicates(backwards, held_out[::-1], 0.8) != set()
    )


def test_templates_that_all_collide_stay_quick() -> None:
    rng = random.Random(4)
    filled = [
        f"Hello, this is order {rng.randrange(10**5):05} and I am still waiting for it." for _ in range(1500)
    ]
    start = time.process_time()
    near_duplicates({str(n): text for n, text in enumerate(filled[500:])}, filled[:500], 0.99)
    assert time.process_time() - start < 10


def test_nothing_to_compare_is_no_duplicate() -> None:
    assert near_duplicates({}, ["a"], 0.9) == near_duplicates({"k": "a"}, [], 0.9) == frozenset()


@given(st.floats(0.05, 1))
def test_the_index_has_room_for_its_bands_and_misses_little(threshold: float) -> None:
    bands, rows = bands_and_rows(threshold)
    assert 2 <= bands * rows <= 64
    assert bands >= 2
    assert (1 - threshold**rows) ** bands <= 0.04
