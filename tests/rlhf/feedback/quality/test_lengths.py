import numpy as np
import pytest

from rlhf.evaluation.intervals import wilson_interval
from rlhf.feedback.quality.lengths import length_bias, looks_cut_off


def test_length_bias_is_the_share_of_longer_choices_with_its_interval() -> None:
    bias = length_bias([5, 9, 3, 4], [4, 3, 8, 4])
    assert bias is not None
    assert (bias.longer_chosen, bias.pairs) == (pytest.approx(2 / 3), 3)
    assert bias.interval == wilson_interval(2, 3)


def test_the_correlation_is_pearsons_over_both_orders_of_each_pair() -> None:
    rng = np.random.default_rng(0)
    chosen, rejected = rng.integers(5, 50, 200) + 6, rng.integers(5, 50, 200)
    bias = length_bias(chosen, rejected)
    gap = chosen - rejected
    both = np.concatenate([gap, -gap])
    preference = np.repeat([1, -1], 200)
    assert bias is not None
    assert bias.correlation == pytest.approx(np.corrcoef(both, preference)[0, 1])


def test_equal_lengths_say_nothing() -> None:
    assert length_bias([3, 4], [3, 4]) is None
    assert length_bias([], []) is None


@pytest.mark.parametrize(
    ("text", "cut_off"),
    [
        ("It is here.", False),
        ('He said "yes!"', False),
        ("**Done.** ", False),
        ("```\ncode\n```", False),
        ("見つかりました。", False),
        ("", False),
        ("and then the", True),
        ("one, two,", True),
        ("- a list item", True),
    ],
)
def test_a_text_without_an_end_looks_cut_off(text: str, cut_off: bool) -> None:
    assert looks_cut_off(text) is cut_off
