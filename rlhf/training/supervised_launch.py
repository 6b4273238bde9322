"""Pre-training, supervised fine-tuning and reward models on several processes of this machine."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import datasets
from datasets import DatasetDict, load_from_disk

from rlhf.models.directory import ModelDirectory, open_directory
from rlhf.tracking import MetricSink
from rlhf.training.launch import launch
from rlhf.training.machines import Machines
from rlhf.training.processes import Processes, is_one_of_several, of_first
from rlhf.training.settings import TrainerSettings
from rlhf.training.worker import Job


class SupervisedJob(Job):
    """What the jobs of all supervised trainings hold."""

    rows: Path
    """Directory of the rows, as :func:`write_rows` leaves them."""
    settings: TrainerSettings
    """Of the training."""
    output_dir: Path
    """Where the model is written."""
    seed: int
    """Of the training."""
    checkpoints: Path | None
    """Folder for checkpoints."""

    def dataset(self) -> DatasetDict:
        """The rows."""
        return cast(DatasetDict, load_from_disk(str(self.rows)))


def starts_processes(settings: TrainerSettings) -> bool:
    """Whether a training is to start processes of its own: it wants several and runs in none of them."""
    return settings.processes > 1 and not is_one_of_several()


def launch_supervised(
    kind: type[SupervisedJob],
    rows: DatasetDict,
    settings: TrainerSettings,
    *,
    output_dir: Path,
    checkpoints: Path | None,
    sink: MetricSink | None,
    **arguments: Any,
) -> ModelDirectory:
    """A supervised training on ``settings.processes`` processes.

    Args:
        checkpoints: also gets the workers' logs. Without it they are kept only of a launch that failed.
        arguments: further fields of the job.

    Returns:
        The sealed model.

    Raises:
        ConfigError, DataError, ModelError, TrainingError, InterruptedRunError: as of one process, and see
            :func:`rlhf.training.launch.launch`.
    """
    work = checkpoints / "processes" if checkpoints else Path(tempfile.mkdtemp(prefix="processes-"))
    job = kind(
        rows=write_rows(rows, work / "rows"),
        settings=settings,
        output_dir=output_dir,
        checkpoints=checkpoints,
        **arguments,
    )
    launch(job, processes=settings.processes, work_dir=work, sink=sink)
    shutil.rmtree(work if checkpoints is None else job.rows)
    return open_directory(output_dir)


def run_on_machine(
    job: SupervisedJob, machines: Machines | None, *, work_dir: Path, sink: MetricSink | None
) -> ModelDirectory | None:
    """This machine's part of a training on several: ``job.settings.processes`` processes here.

    Returns:
        The sealed model on machine 0, ``None`` on the others.
    """
    launch(job, processes=job.settings.processes, work_dir=work_dir, sink=sink, machines=machines)
    return open_directory(job.output_dir) if machines is None or machines.index == 0 else None


def write_rows(rows: DatasetDict, path: Path) -> Path:
    """Write the splits that have rows, where workers can read them; what was there is replaced."""
    shutil.rmtree(path, ignore_errors=True)
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        DatasetDict({split: of for split, of in rows.items() if len(of)}).save_to_disk(str(path))
    finally:
        if shown:
            datasets.enable_progress_bars()
    return path


def saved_by_first(processes: Processes, save: Callable[[], ModelDirectory]) -> ModelDirectory:
    """The model directory that process 0 writes, described on every process."""
    return of_first(processes, save)
