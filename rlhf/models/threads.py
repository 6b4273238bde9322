"""How many CPU threads one operation should use: few for small models, whose operations are over sooner than
threads can be woken and joined."""

import contextlib
import os
from collections.abc import Iterator

import torch

_PARAMETERS_PER_THREAD = 4_000_000


def choose_threads(n_parameters: int) -> int:
    """Intra-op threads for a model of ``n_parameters``, between one and the processors this process may use.

    A model below about eight million parameters runs on one thread.
    """
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(available, n_parameters // _PARAMETERS_PER_THREAD))


@contextlib.contextmanager
def intra_op_threads(count: int) -> Iterator[None]:
    """Set torch's intra-op threads for a block and restore them after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
