"""How long the stages of a config take on this machine, from one short run of it in a throwaway state folder.

What an optimizer step or update adds is read off the times of a stage's own curves, so that loading and first
steps, which a stage has once, are not counted with each; nor are evaluations, which a supervised stage has as
many of however long it trains. Batches, lengths and models are the config's own, so the peak of memory is the
full run's.
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

# Rows of similar length are put together within 50 batches, from the longest to the shortest: so many steps
# see all lengths.
_STEPS = 50
_LOGGED_EVERY = 10
Moments = Sequence[tuple[int, float]]
"""Steps or updates, each with a time in seconds at which something was logged of it."""


@dataclass(frozen=True)
class Calibrated:
    """A step of the full run."""

    seconds: float
    peak_bytes: float


@dataclass(frozen=True)
class Pace:
    """What a stage takes beside its beginning and end, in seconds."""

    step: float
    """Of an optimizer step; of an update, with its share of evaluations."""
    evaluation: float = 0.0


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
        read = _short_run(config, [*overrides, *_shortened(parameters, counts)], home)
    wanted = _full_counts(parameters, read["prepare_datasets"]["rows"])
    found = {}
    for step, reading in read.items():
        stage, seconds = _stage_of(step), reading["seconds"]
        if stage in wanted and reading["moments"]:
            more = wanted[stage] - counts[stage]
            if stage == "policy":
                period = getattr(parameters, parameters.algorithm).evaluate_every
                seconds += policy_pace(reading["moments"], period).step * more
            else:
                pace = supervised_pace(reading["moments"])
                evaluations = getattr(parameters, stage).evaluations
                seconds += pace.step * more + pace.evaluation * (evaluations - 1)
        found[step] = Calibrated(max(0.0, seconds), reading["peak"])
    return found


def supervised_pace(moments: Moments) -> Pace:
    """Of a stage whose one evaluation comes after its last step.

    The step is timed between its first and its last but one point, the evaluation by what the last point came
    later than that pace.
    """
    first = _first_times(moments)
    *inner, last = sorted(first)
    if len(inner) < 2:
        return Pace(0.0)
    step = (first[inner[-1]] - first[inner[0]]) / (inner[-1] - inner[0])
    return Pace(step, max(0.0, first[last] - first[inner[-1]] - step * (last - inner[-1])))


def policy_pace(moments: Moments, period: int) -> Pace:
    """Of policy training that is evaluated each ``period`` updates: timed over the last of these, which has
    one evaluation."""
    first = _first_times(moments)
    last = max(first)
    begin = last - period if last - period in first else min(first)
    return Pace((first[last] - first[begin]) / (last - begin) if last > begin else 0.0)


def _first_times(moments: Moments) -> dict[int, float]:
    first: dict[int, float] = {}
    for step, time in moments:
        first[step] = min(time, first.get(step, time))
    return first


def _counts(parameters: Any) -> dict[str, int]:
    """Optimizer steps or updates of each stage in the short run."""
    policy = getattr(parameters, parameters.algorithm)
    # A critic that is warmed up alone takes less time than both: the second interval has both.
    updates = 2 * policy.evaluate_every + getattr(policy, "critic_warmup_updates", 0)
    return {
        "pretrain": min(_STEPS, parameters.pretrain.steps) if parameters.pretrain else 0,
        "sft": _STEPS,
        "reward_model": _STEPS,
        "policy": min(updates, getattr(policy, "updates", updates)),
    }


def _shortened(parameters: Any, counts: Mapping[str, int]) -> list[str]:
    name = parameters.algorithm
    last = "updates" if hasattr(getattr(parameters, name), "updates") else "max_steps"
    supervised = ["sft", "reward_model", *(["pretrain"] if parameters.pretrain else [])]
    return [
        *([f"pretrain.steps={counts['pretrain']}"] if parameters.pretrain else []),
        f"sft.max_steps={counts['sft']}",
        f"reward_model.max_steps={counts['reward_model']}",
        *(f"{stage}.evaluations=1" for stage in supervised),
        *(f"{stage}.logging_steps={_LOGGED_EVERY}" for stage in supervised),
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


def _short_run(config: Path, overrides: Sequence[str], home: str) -> dict[str, Any]:
    """What a run in a state folder of its own took."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ZENML_", "MPLCONFIG"))}
    paths = [str(environment.PROJECT_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {**kept, "RLHF_HOME": home, "PYTHONPATH": os.pathsep.join(paths)}
    said = ""
    for module in (["ops.cli", "run", str(config), *overrides], ["ops.run_readings"]):
        ended = subprocess.run(
            [sys.executable, "-m", *module], env=variables, capture_output=True, text=True, check=False
        )
        if ended.returncode:
            last = (ended.stderr.strip() or ended.stdout.strip()).splitlines()[-1:]
            raise TrainingError(f"A calibrating run of {config} failed: {' '.join(last)}")
        said = ended.stdout
    return dict(json.loads(said.strip().splitlines()[-1]))
