"""Prompts and completions as token ids: the only place that knows how a prompt becomes a model's input.

Training (TRL), rollouts, scoring and evaluation must all see the same ids for the same text, so all of them
come here.
"""

from collections.abc import Sequence
from typing import cast

from transformers import PreTrainedTokenizerBase

from rlhf.errors import DataError, ModelError
from rlhf.feedback.rows import Message

Prompt = str | Sequence[Message]
"""Plain text, or chat messages that end with the turn to be answered."""


def chat_messages(prompt: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> list[Message]:
    """Messages in the roles that the tokenizer's template knows.

    The ``context`` role (reference text beside an instruction) is kept for templates that name it, and joined
    to the following user turn for all others.
    """
    if "context" in (tokenizer.chat_template or ""):
        return [Message(role=m["role"], content=m["content"]) for m in prompt]
    merged: list[Message] = []
    pending = ""
    for message in prompt:
        if message["role"] == "context":
            pending = message["content"]
        elif message["role"] == "user" and pending:
            merged.append(Message(role="user", content=f"{message['content']}\n\n{pending}"))
            pending = ""
        else:
            merged.append(Message(role=message["role"], content=message["content"]))
    if pending:
        raise DataError(
            "A context message needs a user message after it; put the context before the question."
        )
    return merged


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """Token ids of a prompt, ready for the model to answer (generation prompt included for chats).

    Raises:
        ModelError: chat messages, but the tokenizer has no chat template.
    """
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    if tokenizer.chat_template is None:
        raise ModelError(
            "The prompts are chat messages but the tokenizer has no chat template; set sft.template to "
            "'chat' or 'instruction' so that one is installed before training."
        )
    messages = cast(list[dict[str, str]], chat_messages(prompt, tokenizer))
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_completion(tokenizer: PreTrainedTokenizerBase, completion: str) -> list[int]:
    """Token ids of a finished completion: the text, then EOS."""
    ids = tokenizer(completion, add_special_tokens=False)["input_ids"]
    return [*ids, tokenizer.eos_token_id]


def encode_conversation(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, completion: str) -> list[int]:
    """Token ids of a prompt with its finished completion: what a reward model is trained on and scores."""
    return [*encode_prompt(tokenizer, prompt), *encode_completion(tokenizer, completion)]


def decode_completion(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Text of generated ids without special tokens and surrounding whitespace."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


def prompt_text(prompt: Prompt) -> str:
    """A prompt for people: plain text as it is, chats one turn a line."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{m['role']}: {m['content']}" for m in prompt)
