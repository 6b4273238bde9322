"""Which prompts an update uses and how its rollouts are cut into batches: all pure functions of the seed.

No generator is carried along, so a resumed run needs no random state to continue exactly where it stopped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np

from rlhf.models.length_buckets import length_buckets

_PURPOSES = {"prompts": 1, "rollouts": 2, "mini-batches": 3, "evaluation": 4, "ptx": 5, "adapters": 6}


@dataclass(frozen=True)
class MiniBatch:
    """The rollouts of one optimizer step, cut into micro-batches of rollout indices."""

    micro_batches: tuple[tuple[int, ...], ...]
    owners: tuple[int, ...]
    """The process that runs each micro-batch."""

    @property
    def rows(self) -> list[int]:
        """All rollout indices of the step."""
        return [i for batch in self.micro_batches for i in batch]

    def of(self, process: int) -> list[tuple[int, ...]]:
        """The micro-batches that a process runs."""
        return [b for b, owner in zip(self.micro_batches, self.owners, strict=True) if owner == process]


def derived_seed(
    seed: int,
    purpose: Literal["prompts", "rollouts", "mini-batches", "evaluation", "ptx", "adapters"],
    step: int,
) -> int:
    """A 64-bit seed of its own for each purpose and step."""
    sequence = np.random.SeedSequence([seed % 2**63, _PURPOSES[purpose], step])
    return int(sequence.generate_state(1, np.uint64)[0])


def prompts_of_update(
    update: int,
    batch_size: int,
    total: int,
    seed: int,
    purpose: Literal["prompts", "ptx"] = "prompts",
) -> list[int]:
    """Indices of the prompts of update 1, 2, ...: every prompt once per pass, each pass in an order of its
    own."""
    start = (update - 1) * batch_size
    chosen: list[int] = []
    while len(chosen) < batch_size:
        position = start + len(chosen)
        epoch, offset = divmod(position, total)
        order = np.random.default_rng(derived_seed(seed, purpose, epoch)).permutation(total)
        chosen.extend(order[offset : offset + batch_size - len(chosen)].tolist())
    return chosen


def demonstrations_of_update(
    update: int, plan: Sequence[Sequence[MiniBatch]], total: int, seed: int
) -> list[list[int]]:
    """Indices of the demonstrations of each optimizer step, as many as its rollouts."""
    steps = [step.rows for epoch in plan for step in epoch]
    chosen = iter(prompts_of_update(update, sum(map(len, steps)), total, seed, "ptx"))
    return [list(islice(chosen, len(rows))) for rows in steps]


def update_plan(
    lengths: Sequence[int],
    *,
    epochs: int,
    mini_batches: int,
    token_budget: int,
    seed: int,
    processes: int = 1,
) -> list[list[MiniBatch]]:
    """The optimizer steps of one update: ``epochs`` lists of ``mini_batches`` mini-batches.

    Args:
        lengths: tokens of each rollout, prompt included.
        token_budget: padded tokens of a micro-batch.
        seed: of this update; each epoch permutes the rollouts anew.
        processes: among how many a mini-batch's rollouts are dealt. The mini-batches do not depend on it.
    """
    generator = np.random.default_rng(seed)
    plan: list[list[MiniBatch]] = []
    for _ in range(epochs):
        parts = np.array_split(generator.permutation(len(lengths)), mini_batches)
        plan.append([_mini_batch(lengths, part.tolist(), token_budget, processes) for part in parts])
    return plan


def _mini_batch(lengths: Sequence[int], rows: Sequence[int], token_budget: int, processes: int) -> MiniBatch:
    shares = _dealt(lengths, rows, processes)
    buckets = [
        (tuple(bucket), process)
        for process, share in enumerate(shares)
        for bucket in length_buckets(lengths, token_budget, indices=share)
    ]
    return MiniBatch(tuple(bucket for bucket, _ in buckets), tuple(process for _, process in buckets))


def _dealt(lengths: Sequence[int], rows: Sequence[int], processes: int) -> list[list[int]]:
    """Rows in ``processes`` shares of about equal length: dealt from the longest, forth and back."""
    shares: list[list[int]] = [[] for _ in range(processes)]
    for place, row in enumerate(sorted(rows, key=lambda i: (-lengths[i], i))):
        turn, seat = divmod(place, processes)
        shares[processes - 1 - seat if turn % 2 else seat].append(row)
    return shares
