"""What the comparisons with TRL share: its last release with PPO in an environment of its own, a fresh
process for every measurement, and the figures that a process can tell of itself.

Not a place for any one comparison: workloads and tables are in the scripts.
"""

import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TRL_WITH_PPO = "1.11.0"
"""TRL's last release that has a ``PPOTrainer``."""


def trl_python(venv: Path | None = None) -> Path:
    """The interpreter of an environment with TRL's last PPO, built at the first call.

    Torch and transformers are those of this environment, so that both sides stand on the same kernels.

    Args:
        venv: an environment that exists, or where to build one; by default in the state folder.
    """
    from ops import environment

    folder = venv or environment.home() / f"trl-{TRL_WITH_PPO}"
    python = folder / "bin" / "python"
    if not python.exists() or _trl_version(python) != TRL_WITH_PPO:
        print(f"Building {folder} with trl {TRL_WITH_PPO} ...", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        # without its local part ("+cpu"), which only some indices know
        pins = [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in
                ("torch", "transformers", "accelerate", "datasets", "numpy")]  # fmt: skip
        command = [python, "-m", "pip", "install", "--quiet", f"trl=={TRL_WITH_PPO}", "pandas", *pins]
        subprocess.run(list(map(str, command)), check=True)
    return python


def _trl_version(python: Path) -> str:
    asked = "import importlib.metadata as m; print(m.version('trl'))"
    return subprocess.run([python, "-c", asked], capture_output=True, text=True).stdout.strip()


def run_side(
    python: Path | str, script: Path, arguments: Sequence[str], *, threads: int = 1, ours: bool = True
) -> dict[str, Any]:
    """Run one side in a fresh process; the JSON object that it prints last.

    Both sides get the same environment, in which OpenMP's threads wait passively.

    Args:
        ours: whether the process may import this project.
    """
    environment = {
        **os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive",
        "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }  # fmt: skip
    environment.pop("PYTHONPATH", None)
    if ours:
        environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [str(python), str(script), *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{script.name} {' '.join(arguments)} failed:\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


class Stopwatch:
    """CPU and wall seconds of a block, all threads counted."""

    def __enter__(self) -> "Stopwatch":
        self._cpu, self._wall = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        self.cpu_seconds = time.process_time() - self._cpu
        self.wall_seconds = time.perf_counter() - self._wall


def peak_bytes() -> int:
    """Peak resident memory of this process.

    Linux's own high-water mark where there is one: ``getrusage`` starts a child at its parent's peak.
    """
    status = Path("/proc/self/status")
    if status.exists():
        marks = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(marks[0].split()[1]) * 1024
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def median_of(runs: Sequence[Mapping[str, Any]], figure: str) -> float:
    """The median of one figure over repeated runs."""
    return float(statistics.median(float(run[figure]) for run in runs))


def machine_line() -> str:
    """One line on date, processor and versions, for below a table."""
    packages = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "trl")
    )
    return (
        f"{date.today().isoformat()}; {_processor()}, {os.cpu_count()} cores; "
        f"Python {platform.python_version()}, {packages}"
    )


def _processor() -> str:
    import torch

    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    able = torch.cpu.get_capabilities()
    special = [label for label, key in {"AVX512": "avx512_f", "AVX512-BF16": "avx512_bf16",
               "AMX-BF16": "amx_bf16"}.items() if able.get(key)]  # fmt: skip
    return f"{names[0] if names else platform.machine()} ({', '.join(special) or 'no AVX512'})"
