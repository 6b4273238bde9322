"""The shown samples are the extremes and a fair draw of the rest."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rlhf.evaluation.samples import choose_samples


def test_worst_and_best_come_first_and_the_rest_is_drawn_from_between() -> None:
    differences = np.array([5.0, -3.0, 0.0, 1.0, 9.0, -7.0, 2.0, 0.5, 0.1])
    chosen = choose_samples(differences, 6, seed=0)
    assert [p for p, why in chosen if why == "worst"] == [5, 1]
    assert [p for p, why in chosen if why == "best"] == [4, 0]
    assert {p for p, why in chosen if why == "random"} < {2, 3, 6, 7, 8}


@given(st.lists(st.integers(-3, 3), max_size=20), st.integers(0, 25), st.integers(0, 9))
def test_no_sample_is_shown_twice_and_the_choice_repeats(values: list[int], count: int, seed: int) -> None:
    differences = np.array(values, dtype=float)
    chosen = choose_samples(differences, count, seed=seed)
    assert len({p for p, _ in chosen}) == len(chosen) == min(count, len(values))
    assert chosen == choose_samples(differences, count, seed=seed)
