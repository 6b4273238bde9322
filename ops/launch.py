"""Starting a run: check first, then hand the config to ZenML, the same way from `rlhf run` and from ZenML's
CLI."""

import errno
import importlib
import logging
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import yaml
from mlflow.tracking import MlflowClient
from pydantic import BaseModel
from zenml.client import Client
from zenml.enums import ExecutionStatus
from zenml.models import PipelineRunResponse
from zenml.pipelines.pipeline_definition import Pipeline
from zenml.stack import Stack

from ops import approval, environment, profiles, run_config
from ops.alerts import send, with_alerts
from ops.checkpoint_mirror import remove_finished
from ops.continuation import (
    DEFAULT_GRACE_SECONDS,
    EXTRA,
    RunRecord,
    at_work,
    interrupted_run,
    kept_config,
    new_record,
    settle_orphans,
)
from ops.ledger import check_reach
from ops.signals import ending_at_once
from ops.stack import ensure_local_stack
from ops.stage import tracking_uri
from ops.startup import shorten_startup
from ops.tracking import deliver_spooled
from ops.zenml_blocks import wrong_stack
from rlhf.errors import ConfigError, RLHFError
from rlhf.evaluation.settings import EvaluationSettings
from rlhf.feedback.sources import open_sources
from rlhf.models.settings_rewards import (
    ClassifierRewardSettings,
    EnsembleRewardSettings,
    FunctionRewardSettings,
    MixRewardSettings,
    RewardModelRewardSettings,
)
from rlhf.registry.seal import signing_key
from rlhf.training.settings import BaseModelSettings, is_local

logger = logging.getLogger(__name__)

DEFAULT_CONFIG = "support_desk"
_FREE_DISK_GIB = 2.0
_STAMP = re.compile(r"-\d{8}T\d{12}$")


@dataclass(frozen=True)
class FinishedRun:
    """A pipeline run as it ended."""

    id: str
    name: str
    status: str

    @property
    def goes_on(self) -> bool:
        """Whether its orchestrator has only taken it over, and is still at it."""
        return not ExecutionStatus(self.status).is_finished


def run(
    name_or_path: str | None,
    overrides: Sequence[str] = (),
    *,
    stack: bool = True,
    resume: bool | None = None,
    grace_seconds: float = DEFAULT_GRACE_SECONDS,
) -> FinishedRun:
    """Validate a config, register the local stack if there is none, and run the pipeline to its end.

    Args:
        name_or_path: the config; with ``resume``, ``None`` means that of the run that was interrupted last.
        resume: go on with the newest run of the same parameters: by default if it was interrupted, with
            ``True`` also if it failed, with ``False`` never.
        grace_seconds: how long a step may take to write a checkpoint after SIGTERM.

    Raises:
        RLHFError: the config, its sources or the machine cannot carry the run, or there is nothing to resume;
            nothing has been started.
        InterruptedRunError: SIGTERM came; the run can be resumed.
        Exception: whatever a step raised.
    """
    if stack:
        ensure_local_stack()
    settle_orphans()
    interrupted = None
    if name_or_path is None:
        interrupted = interrupted_run(None, also_failed=True)
        if interrupted is None:
            raise ConfigError("No run was interrupted; name the config to run.")
        path = kept_config(interrupted)
    else:
        path = run_config.find_config(name_or_path)
    config = run_config.apply_overrides(run_config.read_config(path), overrides)
    parameters = check(config)
    check_stack(config)
    if name_or_path is not None and resume is not False:
        interrupted = interrupted_run(config, also_failed=resume is True)
        if interrupted is None and resume:
            raise ConfigError(
                f"There is no interrupted or failed run of {path.name} with these settings to resume; start "
                "it without --resume."
            )
    check_reach(parameters.feedback.ledger, Client().active_stack.artifact_store)  # type: ignore[attr-defined]
    _deliver_spooled()
    from pipelines.rlhf_pipeline import rlhf_pipeline

    shorten_startup()
    file = _config_file(path)
    record = new_record(config, file.name, interrupted, grace_seconds=grace_seconds)
    if interrupted is not None:
        _say_what_goes_on(interrupted, record)
    started = startable(config)
    extra = {**(started.get("extra") or {}), EXTRA: record.model_dump(mode="json")}
    _write_config(file, {**started, "extra": extra})
    with at_work(record), ending_at_once():
        response = rlhf_pipeline.with_options(config_path=str(file))()
        remove_finished(Client().active_stack.artifact_store)
    finished = _finished(response)
    if finished.goes_on:
        return finished
    if parameters.promotion.mode == "approval" and finished.status == "completed":  # type: ignore[attr-defined]
        approval.request_approval(Client().get_pipeline_run(finished.id))
        told = run_config.section(config, "alerts")
        send(told, "approval_waiting", "A model waits for approval", f"Run: {finished.name}")
    from ops.plan import record_actual

    record_actual(Client().get_pipeline_run(finished.id), config)
    return finished


def retrain(name_or_path: str, overrides: Sequence[str] = (), *, stack: bool = True) -> FinishedRun | None:
    """Run the retraining check of a config, and the training that it may ask for, to their end.

    Returns:
        The check; ``None`` where the orchestrator has schedules and the config a ``schedule``, and the check
        was handed over as one.

    Raises:
        RLHFError: as :func:`run`.
        Exception: whatever a step raised.
    """
    path = run_config.find_config(name_or_path)
    config = run_config.apply_overrides(run_config.read_config(path), overrides)
    parameters = check(config, suites=False)  # the training run's start checks those
    run_config.section(config, "retraining")
    if stack:
        ensure_local_stack()
    check_stack(config)
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
        **_place(config, run_config.retraining_steps(parameters.feedback)),  # type: ignore[attr-defined]
        **({"schedule": config["schedule"]} if _has_schedule(config, active) else {}),
    }
    from pipelines.retraining_pipeline import retraining_pipeline

    shorten_startup()
    asked = with_alerts(asked, run_config.section(config, "alerts"))
    response = retraining_pipeline.with_options(config_path=str(effective(asked, f"retrain-{path.stem}")))()
    return None if "schedule" in asked else _finished(response)


def _place(config: Mapping[str, Any], steps: Collection[str]) -> dict[str, Any]:
    """ZenML's blocks that say where these steps compute."""
    own = {name: block for name, block in (config.get("steps") or {}).items() if name in steps}
    keys = ("settings", "environment", "execution_mode")
    blocks = {**{key: config.get(key) for key in keys}, "steps": own}
    return {key: block for key, block in blocks.items() if block}


def _has_schedule(config: Mapping[str, Any], active: Stack) -> bool:
    return bool(config.get("schedule")) and active.orchestrator.config.is_schedulable


def check(config: Mapping[str, Any], *, suites: bool = True) -> BaseModel:
    """Everything that can be known to be wrong before a run starts.

    Args:
        suites: the evaluation's suites as well, which takes loading torch.

    Raises:
        ConfigError: unknown or wrong keys, a missing base or reward model, too little disk.
        DataError: a source or a suite's file that is not there, or is not as its publishers have it.
    """
    parameters = run_config.checked(config)
    for key in ("base_model", "reward_base"):
        _check_model(key, getattr(parameters, key))
    judges: Mapping[str, str] = parameters.evaluation.rewards  # type: ignore[attr-defined]
    for name, source in judges.items():
        _check_function(f"evaluation.rewards.{name}", source)
    if suites:
        _check_suites(parameters.evaluation)  # type: ignore[attr-defined]
    _check_reward("reward", parameters.reward)  # type: ignore[attr-defined]
    signing_key(parameters.promotion.signing_key_env)  # type: ignore[attr-defined]
    open_sources(parameters.feedback)  # type: ignore[attr-defined]  # the model is made from a signature
    _check_disk()
    return parameters


def check_stack(config: Mapping[str, Any]) -> None:
    """Refuse a config whose ``settings`` are for other components than the active stack's.

    Raises:
        ConfigError: as said; ZenML would leave such settings out, and compute elsewhere than was asked for.
    """
    components = Client().active_stack_model.components
    flavors = {str(kind): [one.flavor_name for one in found] for kind, found in components.items()}
    if problems := wrong_stack(config, flavors):
        raise ConfigError("\n".join(map(str, problems)))


def prepare_for_zenml_cli(pipeline: Pipeline, context: click.Context) -> Pipeline:
    """What `rlhf run` does before a run, for `zenml pipeline run`, with errors as its command line shows
    them."""
    given = context.params.get("config_path")
    try:
        path = Path(given) if given else run_config.find_config(DEFAULT_CONFIG)
        config = run_config.read_config(path)
        if profiles.KEY in config:
            raise ConfigError(
                f"{profiles.KEY}: ZenML's command knows no profiles; start with `rlhf run --keep-stack "
                f"{path}`."
            )
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
    shorten_startup()
    return pipeline if given else pipeline.with_options(config_path=str(path))


def explain(error: BaseException) -> str:
    """One sentence for the command line: our own errors as they are, a full disk or memory with its
    remedy."""
    for cause in _causes(error):
        if isinstance(cause, RLHFError):
            return str(cause)
        if _disk_is_full(cause):
            return (
                f"The disk is full; free space under {environment.home()} (finished runs are in artifacts/) "
                "and run again with --resume: finished steps come from the cache, and training goes on from "
                "its last checkpoint."
            )
        if isinstance(cause, MemoryError) or "out of memory" in str(cause).lower():
            return (
                "Memory ran out; lower sft.micro_batch_size, reward_model.micro_batch_size or "
                "ppo.micro_batch_tokens, turn gradient_checkpointing on, or train with lora; finished steps "
                "come from the cache."
            )
    return f"{type(error).__name__}: {error}"


def _disk_is_full(error: BaseException) -> bool:
    """safetensors and sqlite have errors of their own for it."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return True
    return any(words in str(error) for words in ("No space left on device", "database or disk is full"))


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
    if started.get("steps"):
        wired = run_config.steps_of(run_config.checked(config))
        started["steps"] = {name: block for name, block in started["steps"].items() if name in wired}
    return with_alerts(started, run_config.section(config, "alerts"))


def effective(config: Mapping[str, Any], stem: str) -> Path:
    """A config for ZenML, kept in the state folder."""
    file = _config_file(Path(stem))
    _write_config(file, config)
    return file


def _config_file(path: Path) -> Path:
    """Where the config of a run that starts now is kept."""
    folder = environment.home() / "configs"
    folder.mkdir(parents=True, exist_ok=True)
    stem = _STAMP.sub("", path.stem)  # a resumed run's config has one already
    return folder / f"{stem}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.yaml"


def _write_config(file: Path, config: Mapping[str, Any]) -> None:
    """Keep the config as it is run. References to the environment stay references."""
    file.write_text(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True), encoding="utf-8")


def _say_what_goes_on(interrupted: PipelineRunResponse, record: RunRecord) -> None:
    assert record.continues is not None
    feedback = record.continues.feedback
    state = f" with the feedback at sequence {feedback['sequence']}" if feedback else ""
    logger.warning(
        "This run goes on with %s%s; --no-resume starts a new one%s.",
        interrupted.name,
        state,
        " with the newest feedback" if feedback else "",
    )


def _deliver_spooled() -> None:
    """Send metrics that earlier runs could not; the server may still be away."""
    if (uri := tracking_uri()) is not None:
        deliver_spooled(MlflowClient(tracking_uri=uri))


def _finished(response: PipelineRunResponse | None) -> FinishedRun:
    assert response is not None  # that is how ZenML answers a schedule
    now = Client().get_pipeline_run(response.id)
    return FinishedRun(str(now.id), now.name, now.status.value)


def _check_model(key: str, settings: BaseModelSettings | None) -> None:
    if settings is not None and is_local(settings.model):
        _check_directory(
            f"{key}.model", Path(settings.model), "the folder that save_pretrained wrote, or a hub id"
        )


def _check_directory(key: str, path: Path, remedy: str) -> None:
    if not (path / "config.json").exists():
        raise ConfigError(f"parameters.{key}: {path} holds no model (no config.json); give {remedy}.")


def _check_function(key: str, source: str) -> None:
    module, _, function = source.partition(":")
    try:
        found = getattr(importlib.import_module(module), function, None)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"parameters.{key}: {source} cannot be imported: {error}.") from error
    if not callable(found):
        raise ConfigError(f"parameters.{key}: {module} has no function {function!r}.")


def _check_suites(settings: EvaluationSettings) -> None:
    if not settings.suites.chosen:
        return
    from rlhf.evaluation.suites.run import build_suites  # it loads torch, which most runs need only later

    for name, scorer in settings.suites.scorers.items():
        _check_reward(f"evaluation.suites.scorers.{name}", scorer)
    build_suites(settings.suites, settings.seed)


def _check_reward(key: str, reward: Any) -> None:
    """The functions and local models that a reward's settings name, anywhere in their tree."""
    match reward:
        case FunctionRewardSettings():
            _check_function(key, reward.function)
        case RewardModelRewardSettings():
            _check_directory(f"{key}.path", reward.path, "the folder of a reward model")
        case ClassifierRewardSettings() if is_local(str(reward.path)):
            _check_directory(f"{key}.path", reward.path, "the folder that save_pretrained wrote, or a hub id")
        case MixRewardSettings() | EnsembleRewardSettings():
            for position, part in enumerate(reward.rewards):
                _check_reward(f"{key}.rewards.{position}", part)


def _check_disk() -> None:
    free = shutil.disk_usage(environment.home()).free / 2**30
    if free < _FREE_DISK_GIB:
        raise ConfigError(
            f"Only {free:.1f} GiB of disk are free under {environment.home()}, and a run needs at least "
            f"{_FREE_DISK_GIB:.0f}; free some or set RLHF_HOME to another disk."
        )
