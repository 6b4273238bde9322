"""A step's training on several machines: they read its inputs from the artifact store and leave checkpoints
in its folder there; when the run is resumed, the step finds the last one and only has to deliver.

ZenML gives a step with outputs one pod. So the machines are started beside the pipeline, with the job as a
file: by Kubeflow Trainer (:mod:`ops.job_manifests`), or as a command step with ZenML's ``pod_count``.
"""

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import yaml
from datasets import DatasetDict
from pydantic import Field, ValidationError, model_validator
from zenml.artifact_stores.base_artifact_store import BaseArtifactStore
from zenml.client import Client
from zenml.io import fileio
from zenml.models import StepRunResponse

from materializers.dataset import DatasetMaterializer
from materializers.model_directory import ModelDirectoryMaterializer
from ops import environment
from ops.checkpoint_mirror import of_several_machines
from ops.run_config import apply_overrides
from ops.stage import work_name
from rlhf.errors import ConfigError
from rlhf.models.directory import ModelDirectory
from rlhf.settings import Settings
from rlhf.tracking import MetricSink
from rlhf.training.machines import Machines
from rlhf.training.settings import PretrainSettings, RewardModelSettings, SFTSettings, TrainerSettings

logger = logging.getLogger(__name__)

Stage = Literal["pretrain", "sft", "reward_model"]

_SETTINGS: Mapping[Stage, type[TrainerSettings]] = {
    "pretrain": PretrainSettings,
    "sft": SFTSettings,
    "reward_model": RewardModelSettings,
}
_ROWS: Mapping[str, Stage] = {"text": "pretrain", "demonstrations": "sft", "judgements": "reward_model"}
"""The input of a step that holds its rows says which stage it is."""


class TrainingJob(Settings):
    """The training of one step, for several machines."""

    stage: Stage
    """What is trained."""
    base_model: str | None = None
    """URI of the artifact that training starts from; none for ``pretrain``."""
    rows: str
    """URI of the artifact with the rows."""
    checkpoints: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    """Folder under ``checkpoints/`` of the artifact store, where the step looks for them."""
    seed: int
    """Of the training."""
    fold: int | None = None
    """Of a reward model's rows."""
    role: str | None = None
    """Of a reward model, in the names of its metrics."""
    settings: Mapping[str, Any]
    """The step's settings; ``processes`` counts those of each machine."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.base_model is None) != (self.stage == "pretrain"):
            raise ValueError("base_model belongs to sft and reward_model, and pretrain has none")
        self.trainer_settings()
        return self

    def trainer_settings(self) -> TrainerSettings:
        """The settings in their own class."""
        return _SETTINGS[self.stage].model_validate(self.settings)


def job_of_step(run_name: str, step_name: str, overrides: Sequence[str] = ()) -> TrainingJob:
    """What a step of a run would train, whose inputs are in the artifact store.

    Args:
        overrides: of the step's settings, as ``processes=8``; those that make another training
            (all but ``processes``, ``sharding`` and the checkpoints') would not be taken up by the step.

    Raises:
        ConfigError: there is no such run, or the step has not begun or trains by none of the three stages.
    """
    try:
        run = Client().get_pipeline_run(run_name, allow_name_prefix_match=False)
    except KeyError:
        raise ConfigError(f"There is no run named {run_name}; `rlhf runs` lists them.") from None
    step = run.steps.get(step_name)
    if step is None:
        begun = ", ".join(run.steps) or "none"
        raise ConfigError(
            f"{step_name} of {run_name} has not begun (of its steps {begun} have); start the run, and stop "
            "it when it is there."
        )
    stage = next((_ROWS[name] for name in step.inputs if name in _ROWS), None)
    if stage is None:
        raise ConfigError(
            f"{step_name} trains on one machine; pre-training, supervised fine-tuning and reward models take "
            "several."
        )
    parameters = step.config.model_dump(mode="json")["parameters"]
    settings = apply_overrides({"parameters": parameters["settings"]}, overrides)["parameters"]
    role = parameters.get("role")
    try:
        return TrainingJob(
            stage=stage,
            base_model=None if stage == "pretrain" else _uri(step, "base_model"),
            rows=_uri(step, next(name for name in step.inputs if name in _ROWS)),
            checkpoints=work_name(f"reward_{role}" if role else stage, step),
            seed=parameters["seed"],
            fold=parameters.get("fold"),
            role=role,
            settings=settings,
        )
    except ValidationError as error:
        raise ConfigError(_told(error)) from error


def write_job(job: TrainingJob, place: str) -> None:
    """Write a job's file, on this machine or in the artifact store."""
    _store()
    if folder := place.rpartition("/")[0]:
        fileio.makedirs(folder)
    with fileio.open(place, "w") as stream:
        stream.write(as_yaml(job))


def read_job(place: str) -> TrainingJob:
    """The job in a YAML file, on this machine or in the artifact store.

    Raises:
        ConfigError: it is absent, or no job.
    """
    _store()
    if not fileio.exists(place):
        raise ConfigError(f"There is no job at {place}; write one with `rlhf job write`.")
    with fileio.open(place, "r") as stream:
        content = stream.read()
    try:
        return TrainingJob.model_validate(yaml.safe_load(content))
    except ValidationError as error:
        raise ConfigError(f"{place}: {_told(error)}") from error


def as_yaml(job: TrainingJob) -> str:
    """The job as its file."""
    return yaml.safe_dump(job.model_dump(mode="json", exclude_none=True), sort_keys=False)


def run_job(job: TrainingJob, machines: Machines | None, sink: MetricSink) -> None:
    """Do this machine's part of a job; afterwards the step's folder has the last checkpoint.

    Args:
        machines: which one this is; ``None`` if it is the only one.

    Raises:
        ConfigError: the batch can't be shared out evenly among all processes.
        RLHFError: as of a training on one machine.
    """
    from rlhf.training.pretrain import PretrainJob
    from rlhf.training.reward_model import RewardModelJob
    from rlhf.training.sft import SFTJob
    from rlhf.training.supervised_launch import run_on_machine, write_rows

    settings = job.trainer_settings()
    try:
        settings.rows_per_pass(settings.processes * (machines.count if machines else 1))
    except ValueError as error:
        raise ConfigError(f"{error}; change settings.batch_size or the number of machines.") from error
    index = machines.index if machines else 0
    work = environment.scratch() / "jobs" / f"{job.checkpoints}-{index}-{os.getpid()}"
    store = _store()
    rows = DatasetMaterializer(job.rows).load(DatasetDict)
    with of_several_machines(store, job.checkpoints, writes=index == 0) as checkpoints:
        common: dict[str, Any] = {
            "rows": write_rows(rows, work / "rows"),
            "settings": settings,
            "output_dir": work / "model",
            "seed": job.seed,
            "checkpoints": checkpoints,
        }
        if job.base_model is not None:
            common["base"] = ModelDirectoryMaterializer(job.base_model).load(ModelDirectory).path
        match job.stage:
            case "pretrain":
                part: Any = PretrainJob(**common)
            case "sft":
                part = SFTJob(**common)
            case "reward_model":
                part = RewardModelJob(**common, fold=job.fold, prefix=f"reward/{job.role}/")
        run_on_machine(part, machines, work_dir=work / "processes", sink=sink)
    shutil.rmtree(work)  # of a failure the workers' logs stay
    logger.info("The last checkpoint is in %s; resume the run.", job.checkpoints)


def _store() -> BaseArtifactStore:
    """The active stack's; from then on ZenML's file functions know its URLs."""
    return Client().active_stack.artifact_store


def _uri(step: StepRunResponse, name: str) -> str:
    [artifact] = step.inputs[name]
    return str(artifact.uri)


def _told(error: ValidationError) -> str:
    found = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(map(str, found["loc"]))
    return f"{place}: {found['msg']}" if place else str(found["msg"])
