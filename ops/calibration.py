"""How long the stages of a config take on this machine, from one short run of it in a throwaway state folder.

What an optimizer step or update adds is read off the times of a stage's own curves, so that loading and first
steps, which a stage has once, are not counted with each. Batches, lengths and models are the config's own, so
the peak of memory is the full run's.
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

logger = logging.getLogger(__name__)

_STEPS = 45
_READ = """
import json
from datetime import UTC
from ops import environment; environment.configure()
from mlflow.tracking import MlflowClient
from ops.stage import MLFLOW_RUN_ID, STAGE_PEAK, tracking_uri
from zenml.client import Client
run = Client().list_pipeline_runs(size=1, sort_by="desc:created").items[0]
mlflow, opened = MlflowClient(tracking_uri=tracking_uri()), str(run.run_metadata[MLFLOW_RUN_ID])
curves = [mlflow.get_metric_history(opened, name) for name in mlflow.get_run(opened).data.metrics]
def pace(step):
    begin, end = (t.replace(tzinfo=UTC).timestamp() * 1000 for t in (step.start_time, step.end_time))
    curve = max(([p for p in c if p.step and begin <= p.timestamp <= end] for c in curves), key=len)
    if len(curve) < 2 or curve[-1].step == curve[0].step:
        return None
    return (curve[-1].timestamp - curve[0].timestamp) / 1000 / (curve[-1].step - curve[0].step)
print(json.dumps({name: {
    "seconds": (step.end_time - step.start_time).total_seconds(),
    "pace": pace(step),
    "peak": step.run_metadata.get(STAGE_PEAK, 0),
    "rows": {output: found[0].run_metadata.get("rows (train)") for output, found in step.outputs.items()},
} for name, step in run.steps.items()}))
"""


@dataclass(frozen=True)
class Calibrated:
    """A step of the full run."""

    seconds: float
    peak_bytes: float


def calibrate(config: Path, overrides: Sequence[str], parameters: Any) -> dict[str, Calibrated]:
    """Run the config with few steps, and extrapolate.

    Args:
        config: a run config.
        parameters: its validated parameters.

    Raises:
        TrainingError: the short run failed.
    """
    work = environment.home() / "calibration"
    work.mkdir(exist_ok=True)
    counts = _counts(parameters)
    with tempfile.TemporaryDirectory(dir=work) as home:
        read = _read(config, [*overrides, *_shortened(parameters, counts)], home)
    wanted = _full_counts(parameters, read["prepare_datasets"]["rows"])
    found = {}
    for step, reading in read.items():
        stage = _stage_of(step)
        seconds = reading["seconds"]
        if stage in wanted and reading["pace"] is not None:
            seconds += reading["pace"] * (wanted[stage] - counts[stage])
        found[step] = Calibrated(max(0.0, seconds), reading["peak"])
    return found


def _counts(parameters: Any) -> dict[str, int]:
    """Optimizer steps or updates of each stage in the short run."""
    policy = getattr(parameters, parameters.algorithm)
    updates = _STEPS
    if hasattr(policy, "updates"):  # whole evaluation intervals, whose evaluations count
        updates = max(2, min(2 * policy.evaluate_every, policy.updates // 4))
    return {
        "pretrain": min(_STEPS, parameters.pretrain.steps) if parameters.pretrain else 0,
        "sft": _STEPS,
        "reward_model": _STEPS,
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
