"""Log-probabilities of completions: response positions only, in length buckets, never a [B, T, V] tensor, and
no [N, V] tensor either where that would be large.

Sequences are padded on the right. A causal model's hidden states at real positions do not depend on what
follows, so no mask is needed and the attention kernels take their fast causal path. Gradients flow where
they are enabled.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from rlhf.models.generation import without_dropout
from rlhf.models.length_buckets import length_buckets, right_padded

LINEAR_HEAD_ARCHITECTURES = frozenset(
    {"llama", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neox", "opt", "olmo2", "smollm3", "phi3"}
)
"""Model types whose logits are exactly ``output_embeddings(base_model(ids))``; others scale or cap them."""


_KEPT_LOGITS = 2**25
"""Numbers (128 MiB) up to which logits are computed at once and kept for the backward pass, on CPU."""


@dataclass(frozen=True)
class CompletionBatch:
    """Prompt + completion of B rows, padded on the right to L; N completion tokens in all."""

    ids: Tensor
    """[B, L] token ids."""
    predicts: Tensor
    """[B, L] bool: positions whose *next* token belongs to the completion. N are True, in row-major order."""
    targets: Tensor
    """[N] completion tokens, in the order of ``predicts``."""
    sizes: list[int]
    """Completion tokens of each row; they add up to N."""


def collate(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], device: torch.device) -> CompletionBatch:
    """Batch (prompt ids, completion ids) pairs. Neither side of a pair may be empty."""
    ids, lengths = right_padded([[*prompt, *completion] for prompt, completion in pairs], pad_id=0)
    starts = torch.tensor([len(prompt) for prompt, _ in pairs])
    column = torch.arange(ids.shape[1])
    predicts = (column >= starts[:, None] - 1) & (column < lengths[:, None] - 1)
    targets = ids[:, 1:][predicts[:, :-1]]
    sizes = [len(completion) for _, completion in pairs]
    return CompletionBatch(ids.to(device), predicts.to(device), targets.to(device), sizes)


def predicting_states(model: PreTrainedModel, batch: CompletionBatch) -> tuple[Tensor, Tensor | None]:
    """Last hidden states [N, D] at the positions that predict completion tokens, and their logits [N, V]
    where the architecture forces the model's own head to be run at once (``None`` otherwise)."""
    if model.config.model_type in LINEAR_HEAD_ARCHITECTURES:
        states = model.base_model(input_ids=batch.ids, use_cache=False).last_hidden_state
        return states[batch.predicts], None
    first = int(batch.predicts.any(0).nonzero()[0])
    out = model(
        input_ids=batch.ids,
        use_cache=False,
        output_hidden_states=True,
        logits_to_keep=batch.ids.shape[1] - first,
    )
    return out.hidden_states[-1][batch.predicts], out.logits[batch.predicts[:, first:]]


def score_completions(
    model: PreTrainedModel,
    batch: CompletionBatch,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    keep_logits: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Log-probabilities [N] of the targets, entropies [N] if asked for, and the hidden states [N, D].

    Logits that would take more than 128 MiB (on a GPU 2 GiB) are computed in blocks of rows and forgotten;
    the backward pass, if there is one, computes them again, which costs a third of the head's time.

    Args:
        keep_logits: compute them at once however large they are.
    """
    states, logits = predicting_states(model, batch)

    def scored(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        logits = _tempered(logits, temperature)
        return token_log_probs(logits, targets), token_entropy(logits) if entropy else None

    def of_block(states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        return scored(model.get_output_embeddings()(states), targets)

    if logits is not None:
        return *scored(logits, batch.targets), states
    limit = _KEPT_LOGITS if states.device.type == "cpu" else 16 * _KEPT_LOGITS
    rows = max(1, limit // model.config.vocab_size)
    if keep_logits or len(states) <= rows:
        return *of_block(states, batch.targets), states
    block = -(-rows // 4)  # a backward pass holds one block's beside everything else
    head = model.get_output_embeddings()
    if type(head) is nn.Linear and head.bias is None and not entropy:
        values: Tensor = _HeadLogProbs.apply(states, head.weight, batch.targets, temperature, block)
        return values, None, states
    parts = [
        checkpoint(of_block, *given, use_reentrant=False, preserve_rng_state=False)
        for given in zip(states.split(block), batch.targets.split(block), strict=True)
    ]
    log_probs, entropies = zip(*parts, strict=True)
    return torch.cat(log_probs), torch.cat(entropies) if entropy else None, states


def _tempered(logits: Tensor, temperature: float) -> Tensor:
    logits = logits.float()
    return logits if temperature == 1.0 else logits / temperature


class _HeadLogProbs(torch.autograd.Function):
    """Log-softmax at one index per row of a linear head's output, of which one block exists at a time, in the
    backward pass too; the weight's gradient is summed in place."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, targets: Tensor, temperature: float, block: int
    ) -> Tensor:
        device = states.device.type
        mixed = torch.is_autocast_enabled(device)
        ctx.dtype = torch.get_autocast_dtype(device) if mixed else states.dtype
        ctx.temperature, ctx.block = temperature, block
        ctx.save_for_backward(states, weight, targets)
        parts = [
            _cross_entropy(_tempered(logits, temperature), targets[rows])
            for rows, _, logits in _head_blocks(states, weight.to(ctx.dtype), block)
        ]
        return -torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        states, weight, targets = ctx.saved_tensors
        used = weight.to(ctx.dtype)
        of_states = torch.empty_like(states)
        of_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for rows, given, logits in _head_blocks(states, used, ctx.block):
            gradient = (gradients[0][rows] / ctx.temperature)[:, None]
            logits = _tempered(logits, ctx.temperature)
            _gradient_over(logits, targets[rows], gradient)
            inner = logits.to(ctx.dtype)
            of_states[rows] = inner @ used
            if of_weight is not None and of_weight.dtype == inner.dtype:
                of_weight.addmm_(inner.t(), given)
            elif of_weight is not None:
                of_weight += inner.t() @ given
        return of_states, of_weight, None, None, None


def _head_blocks(states: Tensor, weight: Tensor, size: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Slices of rows with their states, in the weight's precision, and logits."""
    for start in range(0, len(states), size):
        rows = slice(start, start + size)
        given = states[rows].to(weight.dtype)
        yield rows, given, F.linear(given, weight)


def token_log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities [N] of ``targets`` [N] under single-precision ``logits`` [N, V].

    The backward pass writes the gradient over the logits, which are the largest tensor of training by far:
    one tensor of size [N, V] in place of cross-entropy's three, and less time. Nobody else may read their
    values after it, and it runs once.
    """
    found: Tensor = _TokenLogProbs.apply(logits, targets)
    return found


class _TokenLogProbs(torch.autograd.Function):
    """Log-softmax at one index per row: the gradient is one-hot minus softmax."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        ctx.save_for_backward(logits, targets)
        return -_cross_entropy(logits, targets)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        logits, targets = ctx.saved_tensors
        return _gradient_over(logits, targets, gradients[0][:, None]), None


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    # the fused kernel is the fastest way, and a block of rows keeps its copy of the logits small
    return torch.cat(
        [F.cross_entropy(logits[rows], targets[rows], reduction="none") for rows in _blocks(logits)]
    )


def _gradient_over(logits: Tensor, targets: Tensor, gradient: Tensor) -> Tensor:
    """Write over the logits [N, V] the gradient of their tokens' log-probabilities, weighted [N, 1]."""
    for rows in _blocks(logits):
        torch.mul(logits[rows].softmax(-1), -gradient[rows], out=logits[rows])
    return logits.scatter_add_(1, targets[:, None], gradient)


def token_entropy(logits: Tensor) -> Tensor:
    """Entropy [N] in nats of the distributions given by ``logits`` [N, V]."""
    parts = []
    for rows in _blocks(logits):
        log_probs = logits[rows].log_softmax(-1)
        parts.append(-(log_probs.exp() * log_probs).sum(-1))
    return torch.cat(parts)


def _blocks(logits: Tensor) -> Iterator[slice]:
    """Slices of rows whose temporary copies are small beside the logits: a few megabytes on CPU, where they
    then stay in the cache, and more on GPUs, where every block costs launches of kernels."""
    rows, vocabulary = logits.shape
    size = max(1, (2**19 if logits.device.type == "cpu" else 2**26) // vocabulary)
    return (slice(start, start + size) for start in range(0, rows, size))


@torch.inference_mode()
def completion_log_probs(
    model: PreTrainedModel,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    token_budget: int = 16_384,
    temperature: float = 1.0,
) -> list[Tensor]:
    """Log-probabilities (nats) of each completion's tokens given its prompt, without gradient.

    Args:
        pairs: (prompt ids, completion ids), neither empty.
        token_budget: greatest number of padded tokens in one forward pass.
        temperature: divides the logits; give the one that sampled the completions to measure that policy.

    Returns:
        One CPU tensor [T] for each pair, in order.
    """
    found: dict[int, Tensor] = {}
    with without_dropout(model):
        for rows in length_buckets([len(p) + len(c) for p, c in pairs], token_budget):
            batch = collate([pairs[i] for i in rows], model.device)
            log_probs, _, _ = score_completions(model, batch, temperature=temperature)
            values = log_probs.cpu().split(batch.sizes)
            found.update(zip(rows, values, strict=True))
    return [found[i] for i in range(len(pairs))]
