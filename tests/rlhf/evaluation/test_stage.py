from collections.abc import Sequence

import pytest
from datasets import Dataset

from rlhf.evaluation.settings import EvaluationSettings
from rlhf.evaluation.stage import pair_agreement, reward_gaps
from rlhf.models.chat import Prompt
from rlhf.models.reward_protocol import Reward

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


def agreement_of(reward: Reward, other: Reward, pairs: Dataset) -> dict[str, float]:
    return pair_agreement(reward_gaps(reward, pairs), reward_gaps(other, pairs), EvaluationSettings())


def test_agreement_counts_the_pairs_that_both_rank_alike_and_leaves_ties_out() -> None:
    # By length the last pair ties; of the others, the alphabet agrees on the first two.
    agreement = agreement_of(first_letter, length, PAIRS)
    assert agreement[""] == pytest.approx(2 / 3)
    assert agreement["_low"] < 2 / 3 < agreement["_high"]


def test_a_reward_agrees_with_itself_and_disagrees_with_its_opposite() -> None:
    def shortness(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return [-x for x in length(prompts, completions)]

    assert agreement_of(length, length, PAIRS)[""] == 1.0
    assert agreement_of(shortness, length, PAIRS)[""] == 0.0


def test_without_decided_pairs_nothing_is_claimed() -> None:
    assert agreement_of(length, length, PAIRS.select([3])) == {}
    assert agreement_of(length, length, PAIRS.select([])) == {}
