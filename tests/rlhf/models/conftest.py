"""Tiny models for these tests, built on the fly: nothing is downloaded."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from rlhf.models.architecture import new_llama
from rlhf.models.tokenizer import train_tokenizer
from rlhf.training.settings import ArchitectureSettings

TEXTS = [
    "Dear Mirato, I am sorry that order 48213 is late. Kind regards, the support team",
    "### Instruction:\nTranslate this.\n\n### Context:\nHello world\n\n### Response:\nHallo Welt",
    "My lamp from order 90210 arrived broken. Can you help me, please?",
]
SHAPE = ArchitectureSettings(hidden_size=32, layers=2, heads=2, ffn_size=48, max_positions=128)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, vocabulary_size=400, max_length=128)


@pytest.fixture
def llama(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return new_llama(SHAPE, tokenizer, seed=3)


@pytest.fixture
def foreign_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Like GPT-2's: an end token, and neither padding nor a chat template."""
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|end|>")


@pytest.fixture
def gpt2_directory(tmp_path: Path, foreign_tokenizer: PreTrainedTokenizerFast) -> Path:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(foreign_tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=64,
        bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    foreign_tokenizer.save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


@pytest.fixture
def roberta_directory(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=70, pad_token_id=0, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    RobertaForMaskedLM(config).save_pretrained(tmp_path / "roberta")
    tokenizer.save_pretrained(tmp_path / "roberta")
    return tmp_path / "roberta"


def _save_reward_model(
    path: Path, tokenizer: PreTrainedTokenizerFast, **changes: object
) -> LlamaForSequenceClassification:
    torch.manual_seed(0)
    config = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 128, "num_labels": 1, "initializer_range": 0.3,
        "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, **changes,
    }  # fmt: skip
    model = LlamaForSequenceClassification(LlamaConfig(**config)).eval()
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return model


@pytest.fixture
def save_reward_model() -> Callable[..., LlamaForSequenceClassification]:
    """Writes a small Llama classifier with one output: path, tokenizer, and what differs in its config."""
    return _save_reward_model


@pytest.fixture
def reward_directory(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    _save_reward_model(tmp_path / "rm", tokenizer)
    return tmp_path / "rm"
