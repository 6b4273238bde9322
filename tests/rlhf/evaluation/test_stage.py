import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from rlhf.evaluation.settings import EvaluationSettings
from rlhf.evaluation.stage import _without_undefined, demonstrations_that_fit, pair_agreement, reward_gaps
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


def test_demonstrations_that_a_model_has_no_positions_for_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = Tokenizer(models.WordLevel({"<unk>": 0, "<eos>": 1, "a": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="<unk>").save_pretrained(
        tmp_path
    )
    LlamaConfig(vocab_size=3, max_position_embeddings=8).save_pretrained(tmp_path)
    rows = Dataset.from_list(
        [
            {"prompt": "a a a", "completion": [{"role": "assistant", "content": "a " * count}]}
            for count in (4, 5, 1)  # with the end of sequence 8, 9 and 5 tokens
        ]
    )
    with caplog.at_level(logging.WARNING):
        fitting = demonstrations_that_fit(rows, tmp_path)
    assert fitting["completion"][:] == [rows[0]["completion"], rows[2]["completion"]]
    assert "1 of 3 test demonstrations are too long" in caplog.text
    assert len(demonstrations_that_fit(rows.select([]), tmp_path)) == 0


def test_figures_that_are_no_numbers_become_null_and_nothing_else_changes() -> None:
    data = {"a": float("nan"), "b": [1.0, float("inf"), "x", None], "c": {"d": (2, True)}}
    assert _without_undefined(data) == {"a": None, "b": [1.0, None, "x", None], "c": {"d": [2, True]}}
