"""Scripts that run on two real processes over gloo, and how far what they found may be from one process."""

import os
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

Outcome = dict[str, Tensor]


def outcomes(script: Path, folder: Path, *models: Path) -> list[Outcome]:
    """What each of two processes found, which a script writes to ``rank0.safetensors`` and ``rank1…``.

    Args:
        folder: the script's last argument, and where it writes.
        models: its arguments before.
    """
    command = [sys.executable, str(script), *map(str, models), str(folder)]
    shared = {**os.environ, "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
    started = [subprocess.Popen(command, env={**shared, "RANK": rank, "LOCAL_RANK": rank}) for rank in "01"]
    try:
        assert [process.wait(timeout=120) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    return [load_file(folder / f"rank{rank}.safetensors") for rank in (0, 1)]


def distance(one: Tensor, other: Tensor) -> float:
    """Relative to the size of the whole tensor: single elements may be sums that cancel."""
    return float((one - other).norm() / other.norm().clamp(min=1e-12))


def farthest(found: Outcome, expected: Outcome, prefix: str | tuple[str, ...]) -> float:
    """The largest distance of any tensor whose name begins so; there is at least one."""
    return max(distance(found[name], tensor) for name, tensor in expected.items() if name.startswith(prefix))
