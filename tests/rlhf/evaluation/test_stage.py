from collections.abc import Sequence

import pytest
from datasets import Dataset

from rlhf.evaluation.settings import EvaluationSettings
from rlhf.evaluation.stage import pair_agreement
from rlhf.models.chat import Prompt

PAIRS = Dataset.from_list(
    [
        {
            "prompt": "p",
            "chosen": [{"role": "assistant", "content": a}],
            "rejected": [{"role": "assistant", "content": b}],
        }
        for a, b in [("aaa", "b"), ("cc", "d"), ("e", "ff"), ("g", "h")]
    ]
)


def length(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
    return [float(len(c)) for c in completions]


def first_letter(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
    return [-float(ord(c[0])) for c in completions]


def test_agreement_counts_the_pairs_that_both_rank_alike_and_leaves_ties_out() -> None:
    # By length the last pair ties; of the others, the alphabet agrees on the first two.
    agreement = pair_agreement(first_letter, length, PAIRS, EvaluationSettings())
    assert agreement[""] == pytest.approx(2 / 3)
    assert agreement["_low"] < 2 / 3 < agreement["_high"]


def test_a_reward_agrees_with_itself_and_disagrees_with_its_opposite() -> None:
    def shortness(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return [-x for x in length(prompts, completions)]

    assert pair_agreement(length, length, PAIRS, EvaluationSettings())[""] == 1.0
    assert pair_agreement(shortness, length, PAIRS, EvaluationSettings())[""] == 0.0


def test_without_decided_pairs_nothing_is_claimed() -> None:
    assert pair_agreement(length, length, PAIRS.select([3]), EvaluationSettings()) == {}
