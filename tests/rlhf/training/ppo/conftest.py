"""Tiny networks for these tests, built on the fly: a vocabulary of few words, so that EOS is drawn often."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from rlhf.models.settings_generation import GenerationSettings
from rlhf.training.ppo.settings import PPOSettings

WORDS = ["<pad>", "<s>", "</s>", *"abcdefghijklm"]
PROMPTS = ["a b c", "d", "e f", "g h i j", "k l", "m a", "b d f h", "c"]


def word_tokenizer(*, pad_token: str = "<pad>", words: list[str] = WORDS) -> PreTrainedTokenizerFast:
    """One token per word."""
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad_token, eos_token="</s>")


def tiny_config() -> LlamaConfig:
    """Two layers; weights large enough for the logits to differ."""
    return LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_labels=1,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=32, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, initializer_range=0.3,
    )  # fmt: skip


@pytest.fixture
def prompts() -> list[str]:
    return list(PROMPTS)


@pytest.fixture
def small_config() -> LlamaConfig:
    return tiny_config()


@pytest.fixture
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    return word_tokenizer


@pytest.fixture
def tokenizer(policy_path: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(policy_path)


@pytest.fixture(scope="session")
def policy_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy")
    torch.manual_seed(1)
    LlamaForCausalLM(tiny_config()).save_pretrained(path)
    word_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def reward_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reward")
    torch.manual_seed(2)
    LlamaForSequenceClassification(tiny_config()).save_pretrained(path)
    word_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def make_settings() -> Callable[..., PPOSettings]:
    """Settings for these networks, in single precision."""

    def make(**changes: object) -> PPOSettings:
        values: dict[str, object] = {
            "updates": 4,
            "rollout_batch_size": 8,
            "epochs": 2,
            "mini_batches": 2,
            "generation": GenerationSettings(max_new_tokens=8),
            "learning_rate": 1e-2,
            "critic_learning_rate": 1e-2,
            "evaluate_every": 2,
            "checkpoint_every": 1,
            "precision": "fp32",
        }
        return PPOSettings(**{**values, **changes})

    return make
