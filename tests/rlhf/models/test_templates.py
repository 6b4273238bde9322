"""The promises that the chat templates make to training and sampling."""

from pathlib import Path

import pytest
from datasets import Dataset
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from rlhf.errors import ConfigError
from rlhf.feedback.rows import Message
from rlhf.models.chat import encode_completion, encode_prompt
from rlhf.models.templates import install_template

PLAIN = [Message(role="user", content="Where is order 48213?")]
WITH_CONTEXT = [
    Message(role="context", content="Hello world"),
    Message(role="user", content="Translate this."),
]
LONG = [
    Message(role="system", content="Be brief."),
    Message(role="user", content="Hi"),
    Message(role="assistant", content="Hello!"),
    *WITH_CONTEXT,
]
CONVERSATIONS = [PLAIN, WITH_CONTEXT, LONG]
ANSWER = "I am sorry, Mirato."
TEMPLATES = ["chat", "instruction"]


def ids_of(tokenizer: PreTrainedTokenizerFast, messages: list[Message], *, prompt: bool) -> list[int]:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_prompt_is_a_strict_token_prefix_of_the_answered_conversation(
    tokenizer: PreTrainedTokenizerFast, name: str, messages: list[Message]
) -> None:
    install_template(tokenizer, name)
    prompt = ids_of(tokenizer, messages, prompt=True)
    whole = ids_of(tokenizer, [*messages, Message(role="assistant", content=ANSWER)], prompt=False)
    assert len(whole) > len(prompt)
    assert whole[: len(prompt)] == prompt


@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_an_answer_ends_with_the_end_token_and_nothing_after_it(
    tokenizer: PreTrainedTokenizerFast, name: str, messages: list[Message]
) -> None:
    install_template(tokenizer, name)
    whole = ids_of(tokenizer, [*messages, Message(role="assistant", content=ANSWER)], prompt=False)
    assert whole[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_our_ids_are_those_of_trl(
    tokenizer: PreTrainedTokenizerFast,
    llama: LlamaForCausalLM,
    tmp_path: Path,
    name: str,
    messages: list[Message],
) -> None:
    install_template(tokenizer, name)
    rows = Dataset.from_list([{"prompt": messages, "completion": [{"role": "assistant", "content": ANSWER}]}])
    config = SFTConfig(str(tmp_path), use_cpu=True, report_to=[], max_length=None, disable_tqdm=True)
    row = SFTTrainer(llama, config, train_dataset=rows, processing_class=tokenizer).train_dataset[0]
    prompt, completion = encode_prompt(tokenizer, messages), encode_completion(tokenizer, ANSWER)
    assert row["input_ids"] == prompt + completion
    assert row["labels"] == [-100] * len(prompt) + completion


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_generation_marks_cover_the_answer_and_its_end(
    tokenizer: PreTrainedTokenizerFast, name: str
) -> None:
    install_template(tokenizer, name)
    messages = [*WITH_CONTEXT, Message(role="assistant", content=ANSWER)]
    marked = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
    answer = [i for i, m in zip(marked["input_ids"], marked["assistant_masks"], strict=True) if m]
    assert answer == encode_completion(tokenizer, ANSWER)


def test_the_instruction_template_reads_like_its_name(tokenizer: PreTrainedTokenizerFast) -> None:
    install_template(tokenizer, "instruction")
    rendered = tokenizer.apply_chat_template(WITH_CONTEXT, tokenize=False, add_generation_prompt=True)
    assert rendered == ("### Instruction:\nTranslate this.\n\n### Context:\nHello world\n\n### Response:\n")
    plain = tokenizer.apply_chat_template(PLAIN, tokenize=False, add_generation_prompt=True)
    assert plain == "### Instruction:\nWhere is order 48213?\n\n### Response:\n"


def test_keep_changes_nothing(foreign_tokenizer: PreTrainedTokenizerFast) -> None:
    assert install_template(foreign_tokenizer, "keep") == 0
    assert foreign_tokenizer.chat_template is None


def test_chat_adds_the_role_tokens_that_are_absent(foreign_tokenizer: PreTrainedTokenizerFast) -> None:
    assert install_template(foreign_tokenizer, "chat") == 0  # the vocabulary has them
    bare = PreTrainedTokenizerFast(tokenizer_object=_one_letter(), eos_token="e")
    assert install_template(bare, "chat") == 4
    assert len(bare.convert_tokens_to_ids(["<|user|>", "<|context|>"])) == 2


def test_a_template_without_an_end_token_is_refused() -> None:
    with pytest.raises(ConfigError, match="EOS"):
        install_template(PreTrainedTokenizerFast(tokenizer_object=_one_letter()), "instruction")


def _one_letter():  # type: ignore[no-untyped-def]
    from tokenizers import Tokenizer, models

    return Tokenizer(models.WordLevel({"a": 0, "e": 1}, unk_token="a"))
