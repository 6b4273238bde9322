"""Batches by token budget: sequences of similar length together, so that a padded batch holds few pads.

Not a data loader: it orders indices and nothing else.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def length_buckets(
    lengths: Sequence[int], token_budget: int, *, indices: Sequence[int] | None = None
) -> list[list[int]]:
    """Split indices into batches of at most ``token_budget`` tokens after padding, shortest sequences first.

    Args:
        lengths: length of every sequence, in tokens.
        token_budget: greatest rows x longest row of a batch; a single longer sequence is a batch of its own.
        indices: which sequences to batch; all by default.

    Returns:
        Batches of indices. The order is deterministic: by length, then index.
    """
    order = sorted(range(len(lengths)) if indices is None else indices, key=lambda i: (lengths[i], i))
    batches: list[list[int]] = []
    for index in order:
        if batches and (len(batches[-1]) + 1) * lengths[index] <= token_budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def right_padded(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Sequences as a [B, L] tensor of ids with pads on the right, and their lengths as [B].

    Which positions are real follows from the lengths, never from the ids: the pad id may also be a real
    token.
    """
    lengths = [len(s) for s in sequences]
    width = max(lengths)
    ids = torch.tensor([[*s, *[pad_id] * (width - n)] for s, n in zip(sequences, lengths, strict=True)])
    return ids, torch.tensor(lengths)
