"""Rows as token ids: what is learnt, what is cut, and figures that count every token once."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import PreTrainedTokenizerBase

from rlhf.errors import DataError
from rlhf.models.chat import encode_completion, encode_prompt
from rlhf.models.loading import load_policy, load_reward_model, load_tokenizer
from rlhf.training.rows import IGNORED, encode_demonstrations, encode_pairs, pair_scores, token_loss


@pytest.fixture
def tokenizer(base: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(base)


def test_prompt_tokens_are_not_learnt_and_completion_tokens_are(
    tokenizer: PreTrainedTokenizerBase, demonstrations: DatasetDict
) -> None:
    rows = encode_demonstrations(demonstrations["train"], tokenizer, max_length=128)
    for source, row in zip(demonstrations["train"], rows.dataset, strict=True):
        prompt = encode_prompt(tokenizer, source["prompt"])
        completion = encode_completion(tokenizer, source["completion"][0]["content"])
        assert row["input_ids"] == prompt + completion
        assert row["labels"] == [IGNORED] * len(prompt) + completion
        assert row["labels"][-1] == tokenizer.eos_token_id


def test_every_token_is_learnt_when_completion_only_is_off(
    tokenizer: PreTrainedTokenizerBase, demonstrations: DatasetDict
) -> None:
    rows = encode_demonstrations(demonstrations["dev"], tokenizer, max_length=128, completion_only=False)
    assert all(row["labels"] == row["input_ids"] for row in rows.dataset)


def test_plain_text_prompts_and_plain_texts_are_understood(tokenizer: PreTrainedTokenizerBase) -> None:
    pairs = Dataset.from_dict({"prompt": ["Q: lamp? A:"], "completion": [" yes"]})
    row = encode_demonstrations(pairs, tokenizer, max_length=128).dataset[0]
    assert tokenizer.decode(row["input_ids"]) == "Q: lamp? A: yes<|end|>"
    assert row["labels"].count(IGNORED) == len(tokenizer("Q: lamp? A:")["input_ids"])
    text = encode_demonstrations(Dataset.from_dict({"text": ["a lamp"]}), tokenizer, max_length=128).dataset[
        0
    ]
    assert text["labels"] == text["input_ids"]
    assert text["input_ids"][-1] == tokenizer.eos_token_id


def test_overlong_rows_are_cut_or_dropped_and_counted(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = Dataset.from_dict({"prompt": ["a", "a", "long prompt " * 20], "completion": ["b", "b " * 60, "b"]})
    cut = encode_demonstrations(rows, tokenizer, max_length=40)
    assert (cut.overlong, cut.dropped, len(cut.dataset)) == (2, 1, 2)  # nothing to learn after a long prompt
    assert len(cut.dataset[1]["input_ids"]) == 40
    dropped = encode_demonstrations(rows, tokenizer, max_length=40, drop_overlong=True)
    assert (dropped.overlong, dropped.dropped, len(dropped.dataset)) == (2, 2, 1)


def test_a_completion_of_several_turns_is_an_error_that_names_the_record(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    turn = {"role": "assistant", "content": "x"}
    rows = Dataset.from_list(
        [{"prompt": [{"role": "user", "content": "q"}], "completion": [turn, turn], "record_id": "r7"}]
    )
    with pytest.raises(DataError, match="Record r7"):
        encode_demonstrations(rows, tokenizer, max_length=64)


def test_other_columns_are_an_error_that_lists_them(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(DataError, match="question"):
        encode_demonstrations(Dataset.from_dict({"question": ["a"]}), tokenizer, max_length=64)
    with pytest.raises(DataError, match="rejected"):
        encode_pairs(Dataset.from_dict({"prompt": ["a"], "chosen": ["b"]}), tokenizer, max_length=64)


def test_pairs_with_an_overlong_side_are_left_out_and_counted(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    rows = Dataset.from_dict(
        {"prompt": ["q"] * 3, "chosen": ["a", "a", "a " * 60], "rejected": ["b", "b " * 60, "b"]}
    )
    pairs = encode_pairs(rows, tokenizer, max_length=40)
    assert (len(pairs.dataset), pairs.dropped) == (1, 2)


def test_weights_are_scaled_to_a_mean_of_one(
    tokenizer: PreTrainedTokenizerBase, comparisons: DatasetDict
) -> None:
    rows = (
        comparisons["train"]
        .select(range(4))
        .remove_columns("weight")
        .add_column("weight", [0.0, 1.0, 1.0, 6.0])
    )
    pairs = encode_pairs(rows, tokenizer, max_length=128, weights=True)
    assert pairs.dataset["weight"][:] == [0.0, 0.5, 0.5, 3.0]
    ignored = encode_pairs(rows, tokenizer, max_length=128)
    assert set(ignored.dataset["weight"]) == {1.0}
    assert set(ignored.dataset["margin"]) == {0.0}


@pytest.mark.parametrize("budget", [1, 200, 100_000])
def test_the_loss_is_the_mean_over_tokens_whatever_the_batches(
    base: Path, tokenizer: PreTrainedTokenizerBase, demonstrations: DatasetDict, budget: int
) -> None:
    model = load_policy(base)
    rows = encode_demonstrations(demonstrations["dev"], tokenizer, max_length=128).dataset
    total, count = 0.0, 0
    for row in rows:
        labels = torch.tensor([row["labels"]])
        learnt = int((labels[:, 1:] != IGNORED).sum())
        with torch.no_grad():
            total += model(input_ids=torch.tensor([row["input_ids"]]), labels=labels).loss.item() * learnt
        count += learnt
    loss, tokens = token_loss(model, rows, tokenizer.pad_token_id, token_budget=budget)
    assert tokens == count
    assert loss == pytest.approx(total / count, abs=1e-5)


@pytest.mark.parametrize("budget", [1, 200, 100_000])
def test_scores_do_not_depend_on_padding(
    base: Path, tokenizer: PreTrainedTokenizerBase, comparisons: DatasetDict, budget: int
) -> None:
    torch.manual_seed(0)
    model = load_reward_model(base)
    pairs = encode_pairs(comparisons["dev"], tokenizer, max_length=128).dataset
    chosen, rejected = pair_scores(model, pairs, tokenizer.pad_token_id, token_budget=budget)
    for index, row in enumerate(pairs):
        for side, scores in (("chosen_ids", chosen), ("rejected_ids", rejected)):
            with torch.no_grad():
                alone = model(input_ids=torch.tensor([row[side]])).logits.item()
            assert scores[index] == pytest.approx(alone, abs=1e-5)
