"""A tiny base model and a tiny world for the supervised trainers."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from rlhf.models.tokenizer import train_tokenizer
from rlhf.training.pretrain import pretrain
from rlhf.training.settings import ArchitectureSettings, PretrainSettings

SHAPE = ArchitectureSettings(hidden_size=32, layers=2, heads=2, ffn_size=48, max_positions=128)
ITEMS = ["lamp", "kettle", "jacket", "desk"]


def question(index: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Where is my {ITEMS[index % 4]} of order {index:03d}?"}]


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def demonstration_rows(first: int, count: int) -> Dataset:
    return Dataset.from_list(
        [
            {
                "prompt": question(i),
                "completion": answer(f"Your {ITEMS[i % 4]} of order {i:03d} is on its way."),
                "record_id": f"d{i}",
            }
            for i in range(first, first + count)
        ]
    )


def comparison_rows(first: int, count: int) -> Dataset:
    return Dataset.from_list(
        [
            {
                "prompt": question(i),
                "chosen": answer(f"Your {ITEMS[i % 4]} of order {i:03d} is on its way."),
                "rejected": answer("I have no idea about that, write to us again."),
                "weight": 1.0,
                "margin": 0.5,
                "fold": i % 2,
                "record_id": f"c{i}",
            }
            for i in range(first, first + count)
        ]
    )


@pytest.fixture(scope="session")
def demonstrations() -> DatasetDict:
    return DatasetDict(train=demonstration_rows(0, 64), dev=demonstration_rows(500, 12))


@pytest.fixture(scope="session")
def comparisons() -> DatasetDict:
    return DatasetDict(
        train=comparison_rows(0, 64), dev=comparison_rows(500, 10), test=comparison_rows(700, 20)
    )


@pytest.fixture(scope="session")
def texts(demonstrations: DatasetDict) -> DatasetDict:
    def text(rows: Dataset) -> Dataset:
        return Dataset.from_dict(
            {"text": [row["prompt"][0]["content"] + "\n" + row["completion"][0]["content"] for row in rows]}
        )

    return DatasetDict({split: text(rows) for split, rows in demonstrations.items()})


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, texts: DatasetDict) -> Path:
    """An initialised Llama with the chat template; read-only."""
    settings = PretrainSettings(vocabulary_size=400, architecture=SHAPE, max_length=64)
    return pretrain(texts, settings, tmp_path_factory.mktemp("base") / "model", seed=1).path


@pytest.fixture(scope="session")
def foreign_tokenizer(texts: DatasetDict) -> PreTrainedTokenizerFast:
    """Like GPT-2's: its only special token is EOS, and there is no chat template."""
    own = train_tokenizer(texts["train"]["text"], vocabulary_size=400, max_length=64)
    return PreTrainedTokenizerFast(tokenizer_object=own.backend_tokenizer, eos_token="<|end|>")


@pytest.fixture(scope="session")
def gpt2_base(tmp_path_factory: pytest.TempPathFactory, foreign_tokenizer: PreTrainedTokenizerFast) -> Path:
    path = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(foreign_tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=160,
        bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(path)
    foreign_tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def roberta_base(
    tmp_path_factory: pytest.TempPathFactory, foreign_tokenizer: PreTrainedTokenizerFast
) -> Path:
    path = tmp_path_factory.mktemp("roberta")
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(foreign_tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=161, pad_token_id=0, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    RobertaForMaskedLM(config).save_pretrained(path)
    foreign_tokenizer.save_pretrained(path)
    return path
