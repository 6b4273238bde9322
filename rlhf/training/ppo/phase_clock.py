"""How long the phases of an update take, in wall-clock seconds."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class PhaseClock:
    """Seconds of each phase of the present update; work that a GPU has still to do counts to its phase."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Time the block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            if self._device.type == "cuda":
                torch.cuda.synchronize()
            self.seconds[phase] = time.perf_counter() - start

    def figures(self, tokens: int) -> dict[str, float]:
        """Seconds by phase, and the tokens that were sampled per second of all of them."""
        return {
            **{f"seconds_{phase}": s for phase, s in self.seconds.items()},
            "tokens_per_second": tokens / sum(self.seconds.values()),
        }
