"""Starting a run: check first, then hand the config to ZenML, the same way from `rlhf run` and from ZenML's
CLI."""

import errno
import importlib
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import yaml
from pydantic import BaseModel
from zenml.client import Client
from zenml.models import PipelineRunResponse
from zenml.pipelines.pipeline_definition import Pipeline
from zenml.stack import Stack

from ops import environment, run_config
from ops.alerts import with_alerts
from ops.ledger import check_reach
from ops.stack import ensure_local_stack
from rlhf.errors import ConfigError, RLHFError
from rlhf.feedback.sources import open_sources
from rlhf.models.settings_rewards import FunctionRewardSettings
from rlhf.training.settings import BaseModelSettings, is_local

logger = logging.getLogger(__name__)

DEFAULT_CONFIG = "support_desk"
_FREE_DISK_GIB = 2.0


@dataclass(frozen=True)
class FinishedRun:
    """A pipeline run as it ended."""

    id: str
    name: str
    status: str


def run(name_or_path: str, overrides: Sequence[str] = (), *, stack: bool = True) -> FinishedRun:
    """Validate a config, register the local stack if there is none, and run the pipeline to its end.

    Raises:
        RLHFError: the config, its sources or the machine cannot carry the run; nothing has been started.
        Exception: whatever a step raised.
    """
    path = run_config.find_config(name_or_path)
    config = run_config.apply_overrides(run_config.read_config(path), overrides)
    parameters = check(config)
    if stack:
        ensure_local_stack()
    check_reach(parameters.feedback.ledger, Client().active_stack.artifact_store)  # type: ignore[attr-defined]
    from pipelines.rlhf_pipeline import rlhf_pipeline

    response = rlhf_pipeline.with_options(config_path=str(effective(startable(config), path.stem)))()
    finished = _finished(response)
    from ops.plan import record_actual

    record_actual(Client().get_pipeline_run(finished.id), config)
    return finished


def retrain(name_or_path: str, overrides: Sequence[str] = (), *, stack: bool = True) -> FinishedRun:
    """Run the retraining check of a config, and the training that it may ask for, to their end.

    Where the orchestrator has schedules and the config a ``schedule``, the check is handed over as one.

    Raises:
        RLHFError: as :func:`run`.
        Exception: whatever a step raised.
    """
    path = run_config.find_config(name_or_path)
    config = run_config.apply_overrides(run_config.read_config(path), overrides)
    parameters = check(config)
    run_config.section(config, "retraining")
    if stack:
        ensure_local_stack()
    active = Client().active_stack
    check_reach(parameters.feedback.ledger, active.artifact_store)  # type: ignore[attr-defined]
    written = config["parameters"]
    asked = {
        "parameters": {
            "feedback": written["feedback"],
            "datasets": written.get("datasets") or {},
            "retraining": config.get("retraining") or {},
            # a shipped config by name: another machine has it elsewhere
            "config": path.stem if path.parent == environment.CONFIGS else str(path.resolve()),
            "overrides": list(overrides),
        },
        **({"schedule": config["schedule"]} if _has_schedule(config, active) else {}),
    }
    from pipelines.retraining_pipeline import retraining_pipeline

    asked = with_alerts(asked, run_config.section(config, "alerts"))
    return _finished(
        retraining_pipeline.with_options(config_path=str(effective(asked, f"retrain-{path.stem}")))()
    )


def _has_schedule(config: Mapping[str, Any], active: Stack) -> bool:
    return bool(config.get("schedule")) and active.orchestrator.config.is_schedulable


def check(config: Mapping[str, Any]) -> BaseModel:
    """Everything that can be known to be wrong before a run starts.

    Raises:
        ConfigError: unknown or wrong keys, a missing base model, too little disk.
        DataError: a source that is not there.
    """
    parameters = run_config.checked(config)
    for key in ("base_model", "reward_base"):
        _check_model(key, getattr(parameters, key))
    judges: Mapping[str, str] = parameters.evaluation.rewards  # type: ignore[attr-defined]
    for name, source in judges.items():
        _check_function(f"evaluation.rewards.{name}", source)
    for source in _functions_in(parameters.reward):  # type: ignore[attr-defined]
        _check_function("reward", source)
    open_sources(parameters.feedback)  # type: ignore[attr-defined]  # the model is made from a signature
    _check_disk()
    return parameters


def prepare_for_zenml_cli(pipeline: Pipeline, context: click.Context) -> Pipeline:
    """What `rlhf run` does before a run, for `zenml pipeline run`, with errors as its command line shows
    them."""
    given = context.params.get("config_path")
    try:
        path = Path(given) if given else run_config.find_config(DEFAULT_CONFIG)
        config = run_config.read_config(path)
        parameters = check(config)
        stack = context.params.get("stack_name_or_id")
        if stack is None:
            ensure_local_stack()
            store = Client().active_stack.artifact_store
        else:
            store = Stack.from_model(Client().get_stack(stack)).artifact_store
        check_reach(parameters.feedback.ledger, store)  # type: ignore[attr-defined]
    except RLHFError as error:
        raise click.ClickException(str(error)) from error
    return pipeline if given else pipeline.with_options(config_path=str(path))


def explain(error: BaseException) -> str:
    """One sentence for the command line: our own errors as they are, a full disk or memory with its
    remedy."""
    for cause in _causes(error):
        if isinstance(cause, RLHFError):
            return str(cause)
        if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
            return (
                f"The disk is full; free space under {environment.home()} (finished runs are in artifacts/) "
                "and run again: finished steps come from the cache."
            )
        if isinstance(cause, MemoryError) or "out of memory" in str(cause).lower():
            return (
                "Memory ran out; lower sft.micro_batch_size, reward_model.micro_batch_size or "
                "ppo.micro_batch_tokens, or train with lora."
            )
    return f"{type(error).__name__}: {error}"


def _causes(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    return chain


def startable(config: Mapping[str, Any]) -> dict[str, Any]:
    """What ZenML takes of a config for a run that starts now: a schedule is the retraining check's."""
    started = {key: value for key, value in run_config.for_zenml(config).items() if key != "schedule"}
    return with_alerts(started, run_config.section(config, "alerts"))


def effective(config: Mapping[str, Any], stem: str) -> Path:
    """The config as it is run, kept in the state folder. References to the environment stay references."""
    folder = environment.home() / "configs"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{stem}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.yaml"
    file.write_text(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True), encoding="utf-8")
    return file


def _finished(response: PipelineRunResponse | None) -> FinishedRun:
    if response is None:
        raise ConfigError("The orchestrator took a schedule, not a run: see `zenml pipeline schedule list`.")
    now = Client().get_pipeline_run(response.id)
    return FinishedRun(str(now.id), now.name, now.status.value)


def _check_model(key: str, settings: BaseModelSettings | None) -> None:
    if (
        settings is not None
        and is_local(settings.model)
        and not (Path(settings.model) / "config.json").exists()
    ):
        raise ConfigError(
            f"parameters.{key}.model: {settings.model} holds no model (no config.json); give the folder that "
            "save_pretrained wrote, or a hub id."
        )


def _check_function(key: str, source: str) -> None:
    module, _, function = source.partition(":")
    try:
        found = getattr(importlib.import_module(module), function, None)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"parameters.{key}: {source} cannot be imported: {error}.") from error
    if not callable(found):
        raise ConfigError(f"parameters.{key}: {module} has no function {function!r}.")


def _functions_in(reward: Any) -> list[str]:
    """The Python functions that a reward's settings name, anywhere in their tree."""
    if isinstance(reward, FunctionRewardSettings):
        return [reward.function]
    return [name for part in getattr(reward, "rewards", ()) for name in _functions_in(part)]


def _check_disk() -> None:
    free = shutil.disk_usage(environment.home()).free / 2**30
    if free < _FREE_DISK_GIB:
        raise ConfigError(
            f"Only {free:.1f} GiB of disk are free under {environment.home()}, and a run needs at least "
            f"{_FREE_DISK_GIB:.0f}; free some or set RLHF_HOME to another disk."
        )
