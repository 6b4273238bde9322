"""Sampling completions: the one sampler behind rollouts, evaluation and comparisons of policies.

A row's random numbers depend only on the seed, the row's index and the position, so two policies sampled on
the same prompts with the same seed differ by the policies and not by luck (common random numbers), whatever
the batching. One token is drawn per step by inverting the cumulative distribution, the chosen token's
log-probability is kept and nothing of size [B, T, V] is. No beam search, no penalties: what is sampled is
the policy.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.errors import DataError, ModelError
from rlhf.models.chat import Prompt, decode_completion, encode_prompt
from rlhf.models.decoding_cache import (
    Decoder,
    DynamicCacheDecoder,
    TransposedCacheDecoder,
    supports_transposed_cache,
    transposed_attention,
)
from rlhf.models.settings_generation import GenerationSettings

_COMPACTION = 0.85
"""Finished rows are dropped from the cache when at most this share is alive: dropping copies the cache."""

_LARGEST_UNIFORM = 1.0 - 2.0**-22
"""Keeps ``u * total`` below ``total`` in single precision, so that the search always ends inside the
vocabulary."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled completion."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    """The sampled tokens, EOS included if it was reached."""
    text: str
    """The tokens as text, without special tokens and surrounding whitespace."""
    log_probs: tuple[float, ...]
    """Log-probability (nats) of each token under the distribution that it was drawn from."""
    finished: bool
    """Whether EOS was reached within ``max_new_tokens``; otherwise the completion is truncated."""


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    settings: GenerationSettings,
    *,
    seed: int,
    batch_size: int = 64,
) -> list[Completion]:
    """Sample one completion for each prompt, in the prompts' order.

    Args:
        seed: together with a prompt's index it fixes that row's random numbers.
        batch_size: rows decoded at once; it changes speed and memory only.

    Raises:
        DataError: a prompt is empty or leaves no room for the completion in the model's positions.
        ModelError: the tokenizer knows no end of sequence, or has no chat template for chat prompts.
    """
    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    return generate_from_ids(model, tokenizer, encoded, settings, seed=seed, batch_size=batch_size)


def generate_from_ids(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[Sequence[int]],
    settings: GenerationSettings,
    *,
    seed: int,
    batch_size: int = 64,
    rows: Sequence[int] | None = None,
) -> list[Completion]:
    """:func:`generate` for prompts that are encoded already.

    Args:
        rows: each prompt's index in the whole of which these are a part, for its random numbers.
    """
    check_prompt_lengths(model, prompt_ids, settings)
    stop = stop_token_ids(model, tokenizer)
    uniforms = row_uniforms(seed, rows or len(prompt_ids), settings.max_new_tokens)
    by_length = sorted(range(len(prompt_ids)), key=lambda i: (len(prompt_ids[i]), i))
    completions: dict[int, Completion] = {}
    with torch.inference_mode(), without_dropout(model):
        for start in range(0, len(by_length), batch_size):
            batch = by_length[start : start + batch_size]
            tokens, log_probs = _sample_batch(
                model, [prompt_ids[i] for i in batch], uniforms[batch], settings, stop
            )
            for row, ids, chosen in zip(batch, tokens, log_probs, strict=True):
                completions[row] = Completion(
                    prompt_ids=tuple(prompt_ids[row]),
                    token_ids=tuple(ids),
                    text=decode_completion(tokenizer, ids),
                    log_probs=tuple(chosen),
                    finished=ids[-1] in stop,
                )
    return [completions[i] for i in range(len(prompt_ids))]


def check_prompt_lengths(
    model: PreTrainedModel, prompt_ids: Sequence[Sequence[int]], settings: GenerationSettings
) -> None:
    """Refuse prompts that cannot be answered, before any time is spent.

    Raises:
        DataError: naming the first such prompt.
    """
    limit = getattr(model.config, "max_position_embeddings", None)
    for index, ids in enumerate(prompt_ids):
        if not ids:
            raise DataError(f"Prompt {index} is empty after tokenization; leave it out.")
        if limit is not None and len(ids) + settings.max_new_tokens > limit:
            raise DataError(
                f"Prompt {index} has {len(ids)} tokens and max_new_tokens is {settings.max_new_tokens}, more "
                f"than the model's {limit} positions; leave the prompt out or lower max_new_tokens."
            )


def stop_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids that end a completion: the tokenizer's EOS and those of the model's generation config (chat
    models name several)."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])} - {None}
    if not ids:
        raise ModelError("The tokenizer has no EOS token, so no completion could end; set eos_token in it.")
    return frozenset(int(i) for i in ids)


def row_uniforms(seed: int, rows: int | Sequence[int], length: int) -> Tensor:
    """Uniform numbers [rows, length] in [0, 1): row i is the prefix of a stream that only (seed, i)
    determine. ``rows`` is their number, or which of them.

    Counter-based streams (Philox; Salmon et al., SC 2011) make this free of any order of evaluation.
    """
    # an array of its own type: a plain list of such integers would pass through floats and lose digits
    indices = range(rows) if isinstance(rows, int) else rows
    keys = (np.array([seed % 2**64, row], dtype=np.uint64) for row in indices)
    streams = (np.random.Generator(np.random.Philox(key=key)) for key in keys)
    drawn = [s.random(length, dtype=np.float32) for s in streams]
    return torch.from_numpy(np.stack(drawn)).clamp_(max=_LARGEST_UNIFORM) if drawn else torch.empty(0, length)


def choose_tokens(
    logits: Tensor, uniforms: Tensor, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Draw one token per row.

    Args:
        logits: [B, V], any floating type.
        uniforms: [B] in [0, 1); unused when ``temperature`` is 0.

    Returns:
        Token ids [B] and their log-probabilities [B] under the tempered, truncated and renormalised
        distribution (under the model's own one when greedy).
    """
    logits = logits.float()
    if temperature == 0.0:
        log_probs = logits.log_softmax(-1)
        tokens = logits.argmax(-1)
    else:
        if temperature != 1.0:
            logits = logits / temperature
        if 0 < top_k < logits.shape[1]:
            kth = logits.topk(top_k, dim=-1).values[:, -1:]
            logits = logits.masked_fill(logits < kth, float("-inf"))
        if top_p < 1.0:
            logits = _nucleus(logits, top_p)
        log_probs = logits.log_softmax(-1)
        cumulative = log_probs.exp().cumsum(-1)
        # right=True: the first index whose cumulative mass exceeds u, which never has probability 0
        tokens = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)[:, 0]
    return tokens, log_probs.gather(1, tokens[:, None])[:, 0]


def _nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Nucleus truncation (Holtzman et al. 2020): the most probable token always stays."""
    ordered, order = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    dropped = torch.zeros_like(before, dtype=torch.bool).scatter(1, order, before >= top_p)
    return logits.masked_fill(dropped, float("-inf"))


@contextmanager
def without_dropout(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode inside, the mode before afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _sample_batch(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    uniforms: Tensor,
    settings: GenerationSettings,
    stop: frozenset[int],
) -> tuple[list[list[int]], list[list[float]]]:
    device = model.device
    width, steps = max(map(len, prompts)), settings.max_new_tokens
    filler = next(iter(stop))  # any id: padding is masked out
    ids = torch.tensor([[filler] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[False] * (width - len(p)) + [True] * len(p) for p in prompts], device=device)
    uniforms = uniforms.to(device)
    stops = torch.tensor(sorted(stop), device=device)
    tokens = torch.full((len(prompts), steps), filler, device=device)
    log_probs = torch.zeros(len(prompts), steps, device=device)
    lengths = torch.full((len(prompts),), steps, device=device)
    alive = torch.arange(len(prompts), device=device)  # the batch's row that each decoded row stands for
    running = torch.ones(len(prompts), dtype=torch.bool, device=device)  # decoded rows that have not ended
    fast = supports_transposed_cache(model, width + steps)
    with transposed_attention(model) if fast else nullcontext():
        decoder: Decoder = (
            TransposedCacheDecoder(model, width + steps) if fast else DynamicCacheDecoder(model)
        )
        logits = decoder.prefill(ids, mask)
        for step in range(steps):
            chosen, log_prob = choose_tokens(
                logits,
                uniforms[alive, step],
                temperature=settings.temperature,
                top_k=settings.top_k,
                top_p=settings.top_p,
            )
            tokens[alive, step], log_probs[alive, step] = chosen, log_prob
            ended = running & torch.isin(chosen, stops)
            lengths[alive[ended]] = step + 1
            running = running & ~ended
            count = int(running.sum())
            if count == 0 or step == steps - 1:
                break
            if count <= _COMPACTION * len(alive):
                kept = running.nonzero()[:, 0]
                decoder.keep(kept)
                alive, running, chosen = alive[kept], running[kept], chosen[kept]
            logits = decoder.step(chosen)
    return (
        [row[:n] for row, n in zip(tokens.tolist(), lengths.tolist(), strict=True)],
        [row[:n] for row, n in zip(log_probs.tolist(), lengths.tolist(), strict=True)],
    )
