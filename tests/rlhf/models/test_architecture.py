"""The Llama that is trained from nothing."""

import pytest
import torch
from pydantic import ValidationError
from transformers import PreTrainedTokenizerFast

from rlhf.models.architecture import count_parameters, new_llama
from rlhf.training.settings import ArchitectureSettings

SHAPE = ArchitectureSettings(hidden_size=32, layers=2, heads=2, ffn_size=48, max_positions=128)


def test_the_seed_alone_decides_the_weights(tokenizer: PreTrainedTokenizerFast) -> None:
    first, again, other = (new_llama(SHAPE, tokenizer, seed=s).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_the_global_random_state_is_left_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    new_llama(SHAPE, tokenizer, seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_the_model_fits_its_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    config = new_llama(SHAPE, tokenizer, seed=0).config
    assert config.vocab_size == len(tokenizer)
    assert (config.pad_token_id, config.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id)


def test_tied_embeddings_count_once(tokenizer: PreTrainedTokenizerFast) -> None:
    tied = count_parameters(new_llama(SHAPE, tokenizer, seed=0))
    shape = SHAPE.model_copy(update={"tied_embeddings": False})
    assert count_parameters(new_llama(shape, tokenizer, seed=0)) - tied == len(tokenizer) * 32


def test_heads_that_do_not_divide_the_width_are_refused_before_a_model_is_built() -> None:
    with pytest.raises(ValidationError, match="multiple of twice heads"):
        ArchitectureSettings(hidden_size=32, heads=5)
    with pytest.raises(ValidationError, match="key_value_heads"):
        ArchitectureSettings(hidden_size=48, heads=4, key_value_heads=3)
