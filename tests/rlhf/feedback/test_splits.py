from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.feedback.rows import Message
from rlhf.feedback.settings import DatasetSettings
from rlhf.feedback.splits import fold_of, split_of


def prompt(text: str) -> list[Message]:
    return [Message(role="user", content=text)]


PROMPTS = [prompt(f"prompt {n}") for n in range(4000)]


def test_a_prompt_keeps_its_side_for_ever() -> None:
    # Written down once: a change of these is a change of every split that was ever made.
    settings = DatasetSettings()
    sides = {n: split_of(prompt(f"prompt {n}"), settings) for n in range(100)}
    assert [n for n, side in sides.items() if side == "test"] == [5, 42, 49, 60, 68, 72, 77, 82]
    assert [n for n, side in sides.items() if side == "dev"] == [4, 6, 43, 63, 86]
    assert [fold_of(prompt(f"prompt {n}"), 2, "") for n in range(12)] == [1, 1, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1]


def test_shares_are_as_set() -> None:
    settings = DatasetSettings(test_fraction=0.2, dev_fraction=0.1)
    sides = Counter(split_of(p, settings) for p in PROMPTS)
    assert sides["test"] / len(PROMPTS) == pytest.approx(0.2, abs=0.02)
    assert sides["dev"] / len(PROMPTS) == pytest.approx(0.1, abs=0.02)


def test_folds_are_even_and_independent_of_splits() -> None:
    settings = DatasetSettings(test_fraction=0.3)
    together = Counter((split_of(p, settings) == "test", fold_of(p, 3, "")) for p in PROMPTS)
    for fold in range(3):
        assert together[True, fold] / len(PROMPTS) == pytest.approx(0.1, abs=0.02)


def test_another_fraction_moves_no_prompt_between_test_and_dev() -> None:
    before, after = DatasetSettings(), DatasetSettings(test_fraction=0.3, dev_fraction=0.2)
    for p in PROMPTS:
        if (side := split_of(p, before)) != "train":
            assert split_of(p, after) == side


def test_the_salt_draws_other_splits_and_folds() -> None:
    plain, salted = DatasetSettings(), DatasetSettings(split_salt="x")
    assert [split_of(p, plain) for p in PROMPTS] != [split_of(p, salted) for p in PROMPTS]
    assert [fold_of(p, 2, "") for p in PROMPTS] != [fold_of(p, 2, "x") for p in PROMPTS]


@given(st.text(), st.sampled_from([" ", "\n", "\t"]), st.floats(0, 0.49), st.floats(0, 0.49))
def test_surrounding_whitespace_does_not_change_sides(text: str, space: str, test: float, dev: float) -> None:
    settings = DatasetSettings(test_fraction=test, dev_fraction=dev)
    assert split_of(prompt(text), settings) == split_of(prompt(space + text + space), settings)
    assert 0 <= fold_of(prompt(text), 3, "") < 3


def test_nothing_is_held_out_when_the_fractions_are_zero() -> None:
    settings = DatasetSettings(test_fraction=0, dev_fraction=0)
    assert {split_of(p, settings) for p in PROMPTS} == {"train"}
