"""How long the stages of a config take on this machine, from two short runs of it in a throwaway state
folder.

Two, because a stage's fixed costs and what each of its optimizer steps or updates adds can only be told apart
by two readings. Batches, lengths and models are the config's own, so the peak of memory is the full run's.
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops import environment
from rlhf.errors import TrainingError
from rlhf.planning.forecast import extrapolated

logger = logging.getLogger(__name__)

_SHORT, _LONG = 15, 45
_READ = """
import json
from ops import environment; environment.configure()
from zenml.client import Client
run = Client().list_pipeline_runs(size=1, sort_by="desc:created").items[0]
print(json.dumps({name: {
    "seconds": (step.end_time - step.start_time).total_seconds(),
    "peak": step.run_metadata.get("stage_peak_bytes", 0),
    "rows": {output: found[0].run_metadata.get("rows (train)") for output, found in step.outputs.items()},
} for name, step in run.steps.items()}))
"""


@dataclass(frozen=True)
class Calibrated:
    """A step of the full run."""

    seconds: float
    peak_bytes: float


def calibrate(config: Path, overrides: Sequence[str], parameters: Any) -> dict[str, Calibrated]:
    """Run the config twice with few steps, and extrapolate.

    Args:
        config: a run config.
        parameters: its validated parameters.

    Raises:
        TrainingError: a short run failed.
    """
    work = environment.home() / "calibration"
    work.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as home:
        counts = [_counts(parameters, short) for short in (True, False)]
        readings = [_read(config, [*overrides, *_shortened(parameters, count)], home) for count in counts]
    first, second = readings
    wanted = _full_counts(parameters, second["prepare_datasets"]["rows"])
    found = {}
    for step, last in second.items():
        stage = _stage_of(step)
        # What the second run took from the cache of the first, it took as long there.
        seconds = max(first[step]["seconds"], last["seconds"])
        if stage in wanted:
            points = [
                (count[stage], reading[step]["seconds"])
                for count, reading in zip(counts, readings, strict=True)
            ]
            seconds = extrapolated(points, wanted[stage])
        found[step] = Calibrated(seconds, max(first[step]["peak"], last["peak"]))
    return found


def _counts(parameters: Any, short: bool) -> dict[str, int]:
    """Optimizer steps or updates of each stage in one of the two runs."""
    supervised = _SHORT if short else _LONG
    policy = getattr(parameters, parameters.algorithm)
    updates = supervised
    if hasattr(policy, "updates"):
        # whole evaluation intervals, so that the second reading holds one more evaluation
        updates = max(1, min(policy.evaluate_every, policy.updates // 6)) * (1 if short else 2)
    return {
        "pretrain": min(supervised, parameters.pretrain.steps) if parameters.pretrain else 0,
        "sft": supervised,
        "reward_model": supervised,
        "policy": updates,
    }


def _shortened(parameters: Any, counts: Mapping[str, int]) -> list[str]:
    name = parameters.algorithm
    last = "updates" if hasattr(getattr(parameters, name), "updates") else "max_steps"
    return [
        *([f"pretrain.steps={counts['pretrain']}"] if parameters.pretrain else []),
        f"sft.max_steps={counts['sft']}",
        f"reward_model.max_steps={counts['reward_model']}",
        f"{name}.{last}={counts['policy']}",
        "feedback.ledger.url=null",
        "feedback.ledger.sequence=null",
    ]


def _full_counts(parameters: Any, rows: Mapping[str, int | None]) -> dict[str, int]:
    """Optimizer steps or updates of each stage in the full run."""
    folds = parameters.datasets.folds
    judged = "ratings" if parameters.reward_model.objective == "regression" else "comparisons"
    policy = getattr(parameters, parameters.algorithm)
    pairs = rows["comparisons"] or 0
    preferred = pairs * (2 if parameters.algorithm == "kto" else 1)
    return {
        "pretrain": parameters.pretrain.steps if parameters.pretrain else 0,
        "sft": _steps(parameters.sft, rows["demonstrations"] or 0),
        "reward_model": _steps(parameters.reward_model, (rows[judged] or 0) // folds),
        "policy": policy.updates if hasattr(policy, "updates") else _steps(policy, preferred),
    }


def _steps(settings: Any, rows: int) -> int:
    return settings.max_steps or round(-(-rows // settings.batch_size) * settings.epochs)


def _stage_of(step: str) -> str:
    names = {"train_sft": "sft", "train_policy": "policy"}
    return "reward_model" if step.endswith("_reward_model") else names.get(step, step)


def _read(config: Path, overrides: Sequence[str], home: str) -> dict[str, Any]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ZENML_", "MPLCONFIG"))}
    paths = [str(environment.PROJECT_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {**kept, "RLHF_HOME": home, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "ops.cli", "run", str(config), *overrides]
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if ended.returncode:
        last = (ended.stderr.strip() or ended.stdout.strip()).splitlines()[-1:]
        raise TrainingError(f"A calibrating run of {config} failed: {' '.join(last)}")
    read = subprocess.run(
        [sys.executable, "-c", _READ], env=variables, capture_output=True, text=True, check=True
    )
    return dict(json.loads(read.stdout.strip().splitlines()[-1]))
