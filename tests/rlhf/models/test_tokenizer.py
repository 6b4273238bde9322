"""The byte-level BPE, and padding for tokenizers that lack it."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel, LlamaForCausalLM, PreTrainedTokenizerFast

from rlhf.errors import ConfigError, DataError
from rlhf.models.tokenizer import ensure_pad_token, fit_model, train_tokenizer


@pytest.mark.parametrize(
    "text", ["Dear Mirato, order 48213!", "  two  spaces\n\n\tand tabs ", "ünïcödé 漢字 🙂", "", "a"]
)
def test_any_text_is_decoded_to_itself(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_a_number_is_one_token_per_digit(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.tokenize("48213") == ["4", "8", "2", "1", "3"]


def test_padding_end_and_roles_are_tokens_of_their_own(tokenizer: PreTrainedTokenizerFast) -> None:
    special = [tokenizer.pad_token_id, tokenizer.eos_token_id]
    special += tokenizer.convert_tokens_to_ids(["<|system|>", "<|user|>", "<|assistant|>", "<|context|>"])
    assert len(set(special)) == 6
    assert tokenizer.decode(special, skip_special_tokens=True) == ""


def test_a_saved_tokenizer_gives_the_same_ids_when_loaded(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "<|user|>My lamp from order 90210 …\n<|assistant|> 漢字"
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.chat_template == tokenizer.chat_template


def test_a_tokenizer_without_text_is_an_error() -> None:
    with pytest.raises(DataError, match="no text"):
        train_tokenizer([], vocabulary_size=300, max_length=64)


def test_padding_equal_to_the_end_token_is_replaced(foreign_tokenizer: PreTrainedTokenizerFast) -> None:
    foreign_tokenizer.pad_token = foreign_tokenizer.eos_token
    added = ensure_pad_token(foreign_tokenizer)
    assert added == 0  # <|pad|> is in the vocabulary already
    assert foreign_tokenizer.pad_token == "<|pad|>"


def test_a_padding_token_may_be_named_but_not_the_end_token(
    foreign_tokenizer: PreTrainedTokenizerFast,
) -> None:
    ensure_pad_token(foreign_tokenizer, "<|context|>")
    assert foreign_tokenizer.pad_token == "<|context|>"
    with pytest.raises(ConfigError, match="the EOS token"):
        ensure_pad_token(foreign_tokenizer, "<|end|>")
    with pytest.raises(ConfigError, match="not in the vocabulary"):
        ensure_pad_token(foreign_tokenizer, "<missing>")


def test_added_tokens_get_embeddings_and_leave_the_others_alone(gpt2_directory: Path) -> None:
    model = GPT2LMHeadModel.from_pretrained(gpt2_directory)
    tokenizer = AutoTokenizer.from_pretrained(gpt2_directory)
    before = model.get_input_embeddings().weight.detach().clone()
    tokenizer.add_special_tokens({"pad_token": "<|a new one|>"})
    fit_model(model, tokenizer)
    after = model.get_input_embeddings().weight
    assert after.shape[0] == before.shape[0] + 1
    assert torch.equal(after[: before.shape[0]], before)
    assert model.config.pad_token_id == tokenizer.pad_token_id == before.shape[0]


def test_a_model_keeps_its_other_stop_tokens(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    llama.generation_config.eos_token_id = [tokenizer.eos_token_id, 5]
    fit_model(llama, tokenizer)
    assert llama.generation_config.eos_token_id == [tokenizer.eos_token_id, 5]
