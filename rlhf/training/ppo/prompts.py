"""The prompts of a run with their token ids, after those that are too long are left out or refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.models.chat import Prompt, encode_prompt
from rlhf.models.generation import check_prompt_lengths
from rlhf.models.settings_generation import GenerationSettings


class PromptLimits(Protocol):
    """The settings of an algorithm that bound its prompts."""

    @property
    def max_prompt_tokens(self) -> int | None: ...
    @property
    def generation(self) -> GenerationSettings: ...


@dataclass(frozen=True)
class EncodedPrompts:
    """Prompts in their order."""

    prompts: Sequence[Prompt]
    ids: Sequence[Sequence[int]]
    dropped: int
    """How many were left out for their length."""


def encode_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    settings: PromptLimits,
) -> EncodedPrompts:
    """Encode prompts once for the whole run.

    Raises:
        DataError: a prompt within ``max_prompt_tokens`` leaves no room for a completion.
    """
    limit = settings.max_prompt_tokens
    encoded = [(p, encode_prompt(tokenizer, p)) for p in prompts]
    kept = [(p, ids) for p, ids in encoded if limit is None or len(ids) <= limit]
    check_prompt_lengths(model, [ids for _, ids in kept], settings.generation)
    return EncodedPrompts([p for p, _ in kept], [ids for _, ids in kept], len(encoded) - len(kept))
