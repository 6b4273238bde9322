"""``rlhf plan``: what a run will take and whether it fits, before anything is spent; and afterwards, what it
did take."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from zenml import log_metadata
from zenml.client import Client
from zenml.models import PipelineRunResponse, StepRunResponse

from ops import environment, launch, plan_cache, run_config
from ops.calibration import calibrate
from ops.stack import ensure_local_stack
from ops.stage import STAGE_PEAK
from ops.step_memory import resident_bytes
from rlhf.feedback.rows import sha256_of
from rlhf.planning.forecast import Basis, Forecast, Shortage, StepForecast, compared, from_data
from rlhf.planning.settings import PlanSettings

logger = logging.getLogger(__name__)

FORECAST = "forecast"
"""ZenML metadata of a run: forecast and actual figures by step."""
_SECTIONS = {"train_sft": "sft", "train_proxy_reward_model": "reward_model", "pretrain": "pretrain"}


@dataclass(frozen=True)
class Plan:
    """The forecast, and what stands against the run."""

    forecast: Forecast
    shortages: tuple[Shortage, ...]
    available: float
    """Bytes that a step may take."""
    device: str
    settings: PlanSettings


def plan(
    name_or_path: str, overrides: Sequence[str] = (), *, stack: bool = True, calibrated: bool = False
) -> Plan:
    """Check everything that a run needs, and forecast its steps. The forecast is kept for comparison.

    Args:
        calibrated: time the stages in a short run first, which takes minutes.

    Raises:
        RLHFError: the config, its sources, its models or the machine cannot carry the run.
    """
    path = run_config.find_config(name_or_path)
    config = run_config.apply_overrides(run_config.read_config(path), overrides)
    parameters: Any = launch.check(config)
    settings = run_config.section(config, "plan")
    if stack:
        ensure_local_stack()
    launch.check_reach(parameters.feedback.ledger, Client().active_stack.artifact_store)
    steps = plan_cache.compiled_steps(launch.effective(launch.startable(config), f"plan-{path.stem}"))
    cached = plan_cache.cached_steps(steps) if config.get("enable_cache", True) else {}
    shapes, shortages, available, device = _fit(parameters, settings, set(cached))
    readings = calibrate(path, overrides, parameters) if calibrated else {}
    forecast = []
    for name, step in steps.items():
        if name in cached:
            run = Client().get_pipeline_run(cached[name].pipeline_run_id)
            forecast.append(StepForecast(name, 0.0, cached_from=run.name))
            continue
        earlier = plan_cache.earlier_runs_of(name, step.config.parameters)
        seconds: tuple[float | None, Basis] = (None, "")
        peak: tuple[float | None, Basis] = (None, "")
        if name in shapes:
            peak = (shapes[name], "shape")
        if name in readings:
            seconds = (readings[name].seconds, "calibration")
            if readings[name].peak_bytes:
                peak = (readings[name].peak_bytes, "calibration")
        elif earlier:
            seconds = (_seconds(earlier[0]), "earlier run")
            if measured := float(earlier[0].run_metadata.get(STAGE_PEAK, 0)):
                peak = (measured, "earlier run")
        forecast.append(StepForecast(name, *seconds, *peak))
    found = Plan(Forecast(tuple(forecast)), shortages, available, device, settings)
    _file(config).write_text(json.dumps(found.forecast.as_data(), indent=1))
    return found


def record_actual(run: PipelineRunResponse, config: Mapping[str, Any]) -> None:
    """Put the forecast that was made of a config, if any, beside what the run took."""
    file = _file(config)
    if not file.exists():
        return
    actual = {
        name: (_seconds(step), float(step.run_metadata.get(STAGE_PEAK, 0)))
        for name, step in run.steps.items()
        if step.status.value == "completed" and step.end_time is not None
    }
    found = compared(from_data(json.loads(file.read_text())), actual)
    log_metadata({FORECAST: json.dumps(found)}, run_id_name_or_prefix=run.id)


def available_memory(device: str) -> float:
    """Bytes of the first GPU, or of this machine or container."""
    if device == "cuda":
        import torch

        return float(torch.cuda.get_device_properties(0).total_memory)
    whole = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    return whole if text == "max" else min(whole, float(text))


def _fit(
    parameters: Any, settings: PlanSettings, cached: set[str]
) -> tuple[dict[str, float], tuple[Shortage, ...], float, str]:
    """Bytes of the steps by their models' shapes, and those that do not fit."""
    import torch

    import rlhf.training.sft  # noqa: F401  # what a training step has loaded, for its resident memory
    from rlhf.planning import stages

    device: stages.Device = "cuda" if torch.cuda.is_available() else "cpu"
    if settings.runs_on is not None:
        device = "cuda" if settings.runs_on == "cuda" else "cpu"
    available = settings.memory_gib * 2**30 if settings.memory_gib else available_memory(device)
    libraries = resident_bytes() if device == "cpu" else 0
    parts = stages.Parts(
        *(parameters.pretrain, parameters.base_model, parameters.reward_base, parameters.sft),
        *(parameters.reward_model, parameters.algorithm),
        *(getattr(parameters, parameters.algorithm), parameters.evaluation),
    )
    needed = {name: m.total + libraries for name, m in stages.stage_memory(parts, device).items()}
    shape = stages.base_shape(parts)
    shortages = []
    for name, total in needed.items():
        if total <= available or name in cached or name == "train_selection_reward_model":
            continue
        section = parameters.algorithm if name == "train_policy" else _SECTIONS.get(name)
        remedy = None
        if section is not None:
            own = getattr(parameters, section)
            if name == "train_policy":
                memory = partial(_policy_memory, stages, shape, parameters, device)
            else:
                pairs = {"sequences_per_row": 2, "logits": False} if section == "reward_model" else {}
                memory = partial(stages.supervised, shape, device=device, **pairs)
            remedy = stages.remedies(section, own, memory, available - libraries)
        shortages.append(Shortage(name, total, available, remedy))
    return needed, tuple(shortages), available, device


def _policy_memory(stages: Any, shape: Any, parameters: Any, device: str, settings: Any) -> Any:
    return stages.policy(shape, shape, parameters.algorithm, settings, parameters.sft.max_length, device)


def _seconds(step: StepRunResponse) -> float:
    if step.end_time is None or step.start_time is None:
        return 0.0
    return (step.end_time - step.start_time).total_seconds()


def _file(config: Mapping[str, Any]) -> Path:
    folder = environment.home() / "plans"
    folder.mkdir(exist_ok=True)
    return folder / f"{sha256_of(config['parameters'])[:24]}.json"
