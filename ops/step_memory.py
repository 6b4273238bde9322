"""The most memory that a step held: the process's own, sampled, and the GPU's as PyTorch counts it."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_STATM = Path("/proc/self/statm")
_SECONDS_BETWEEN_SAMPLES = 0.1


@dataclass
class StepMemory:
    """Bytes; 0 where the system does not say."""

    start: int = 0
    """Resident when the step began: libraries and what earlier steps left."""
    peak: int = 0
    gpu_peak: int = 0


@contextmanager
def watched_memory() -> Iterator[StepMemory]:
    """Sample this process while the body runs; the figures hold once it has ended.

    Sampled rather than read from the kernel's high-water mark, which one step of several in a process could
    only reset for everybody.
    """
    seen = StepMemory(start=resident_bytes())
    seen.peak = seen.start
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(_SECONDS_BETWEEN_SAMPLES):
            seen.peak = max(seen.peak, resident_bytes())

    gpu = _gpu()
    if gpu is not None:
        gpu.reset_peak_memory_stats()
    sampler = threading.Thread(target=sample, name="step-memory", daemon=True)
    sampler.start()
    try:
        yield seen
    finally:
        ended.set()
        sampler.join()
        seen.peak = max(seen.peak, resident_bytes())
        if (gpu := _gpu()) is not None:
            seen.gpu_peak = gpu.max_memory_allocated()


def resident_bytes() -> int:
    """Resident memory of this process; 0 off Linux."""
    if not _STATM.exists():
        return 0
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _gpu():  # type: ignore[no-untyped-def]  # torch.cuda, a module
    """PyTorch's CUDA module once a step has loaded and used it: a light step must not load it."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
