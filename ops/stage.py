"""What a step needs while it runs: a metric sink, a scratch folder, and its place in MLflow and ZenML.

with stage("train_sft") as run:
    model = train_sft(..., output_dir=run.output / "model", sink=run.sink)
"""

import gc
import logging
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

from filelock import FileLock, Timeout
from rich.console import Console
from zenml import get_step_context, log_metadata
from zenml.client import Client
from zenml.metadata.metadata_types import MetadataType, Uri
from zenml.models import StepRunResponse
from zenml.steps.step_context import StepContext
from zenml.utils.dashboard_utils import get_run_url

from ops import environment
from ops.checkpoint_mirror import checkpoint_folder, mirrored, remove_finished
from ops.code_version import code_version
from ops.continuation import DEFAULT_GRACE_SECONDS, record_of
from ops.signals import with_grace
from ops.step_memory import watched_memory
from ops.tags import RUN_NAME_TAG
from ops.tracking import MLflowSink, PipelineRun, mlflow_sink, run_url
from rlhf.errors import TrainingError
from rlhf.feedback.rows import sha256_of
from rlhf.retries import retried
from rlhf.settings import Settings
from rlhf.tracking import MetricSink, NullSink

logger = logging.getLogger(__name__)

MLFLOW_RUN_ID = "mlflow_run_id"
STAGE_SECONDS = "stage_seconds"
"""ZenML metadata of a step: wall time of its own work, without calls to MLflow."""
STAGE_PEAK = "stage_peak_bytes"
"""ZenML metadata of a step: the most memory it held: the GPU's where it computed on one, else the process's
resident set."""
_PATIENCE_SECONDS = 300.0


@dataclass(frozen=True)
class Stage:
    """A running step: where it reports, and where it may write."""

    sink: MetricSink
    scratch: Path
    """For whatever only the step itself needs; gone when it ends. Of a step that resumes it lies in the
    artifact store and stays until the step's output is stored; the next run with the same inputs and
    parameters finds it again."""
    output: Path
    """For a directory that the step returns: the materializer moves it from here into the artifact store."""


@contextmanager
def stage(name: str, settings: Settings | None = None, *, resumes: bool = False) -> Iterator[Stage]:
    """Open the MLflow run of this pipeline run, and folders for the step's files.

    Args:
        name: prefix of the logged settings and of the step's wall time.
        settings: logged as parameters ``<name>/<key>``; not of a trainer, which logs its own.
        resumes: the step goes on from what an interrupted run with the same inputs and parameters has left in
            the scratch folder.
    """
    context = get_step_context()
    run = tracked_run(context)
    record = record_of(context.pipeline_run)
    store = Client().active_stack.artifact_store
    _remove_emptied_folders()
    remove_finished(store)
    folder = environment.scratch() / str(context.step_run.id)
    lock = _lock_of(name, context.step_run, checkpoint_folder(store)) if resumes else None
    kept = lock is not None
    work = Path(lock.lock_file).with_suffix("") if lock else folder / "work"
    opened = Stage(NullSink(), work, folder / "output")
    for path in (opened.scratch, opened.output):
        path.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    grace = record.grace_seconds if record else DEFAULT_GRACE_SECONDS
    try:
        with (
            with_grace(grace if resumes else 0.0),
            mirrored(store, opened.scratch, step=str(context.step_run.id)) if kept else nullcontext(),
            _sink(run) as sink,
        ):
            if settings is not None:
                sink.log_params({name: settings.model_dump(mode="json")})
            with watched_memory() as memory:
                yield replace(opened, sink=sink)
            seconds = time.monotonic() - started
            sink.log_metrics({f"seconds/{name}": seconds}, step=0)
            tracking = sink.seconds if isinstance(sink, MLflowSink) else 0.0
            # What the rest of the step takes is ZenML's and the artifact store's; see the benchmark.
            _tell_zenml({STAGE_SECONDS: seconds - tracking, STAGE_PEAK: memory.gpu_peak or memory.peak})
            if isinstance(sink, MLflowSink) and sink.opened is not None:
                url = Uri(run_url(sink.client.tracking_uri, sink.opened))
                _tell_zenml({MLFLOW_RUN_ID: sink.opened.info.run_id, "mlflow_run": url})
                _tell_zenml(
                    {MLFLOW_RUN_ID: sink.opened.info.run_id, "mlflow_run": url}, run=context.pipeline_run.id
                )
    except BaseException as error:
        shutil.rmtree(opened.output, ignore_errors=True)
        # the message of a training error names what was saved there for inspection
        if not kept and not isinstance(error, TrainingError):
            shutil.rmtree(opened.scratch, ignore_errors=True)
        raise
    else:
        if not kept:  # until its output is in the store, a step may still have to go on from its checkpoint
            shutil.rmtree(opened.scratch, ignore_errors=True)
    finally:
        if lock is not None:
            lock.release()
        if "torch" in sys.modules:
            gc.collect()  # trainers hold their models in reference cycles, and the next step loads its own


def _tell_zenml(metadata: dict[str, MetadataType], run: UUID | None = None) -> None:
    """Log metadata of the step, or of a run; patiently, as the step's work is done and would be lost."""
    retried(
        lambda: log_metadata(metadata, run_id_name_or_prefix=run) if run else log_metadata(metadata),
        passes=lambda error: isinstance(error, OSError),
        doing="Telling ZenML of a step",
        patience=_PATIENCE_SECONDS,
    )


def work_name(name: str, step: StepRunResponse) -> str:
    """Of the folder in which a step that resumes works, by its inputs and parameters.

    Code is left out of the name, so that training on other code finds the folder, says so and starts anew.

    Args:
        name: of the stage.
    """
    inputs = {n: [str(a.content_hash or a.id) for a in found] for n, found in step.inputs.items()}
    parameters = step.config.model_dump(mode="json")["parameters"]
    return f"{name}-{sha256_of({'inputs': inputs, 'parameters': parameters})[:32]}"


def _lock_of(name: str, step: StepRunResponse, folder: Path) -> FileLock | None:
    """The lock of the folder (its path without the suffix) that a step with these inputs and parameters works
    in, whichever run it belongs to; ``None`` while another run holds it. It ends with its process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{work_name(name, step)}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.warning("Another run is at the same %s; if this one is interrupted, it starts anew.", name)
        return None
    return lock


def _remove_emptied_folders() -> None:
    """Folders whose output has been moved into the artifact store, which happens after a step has ended."""
    for folder in environment.scratch().glob("*"):
        for path in (folder / "output", folder):
            with suppress(OSError):  # not empty: a step is at work in it, or an upload failed
                path.rmdir()


def tracking_uri() -> str | None:
    """The active stack's MLflow tracking URI, or ``None`` if it tracks elsewhere or not at all."""
    tracker = Client().active_stack.experiment_tracker
    return getattr(tracker.config, "tracking_uri", None) if tracker and tracker.flavor == "mlflow" else None


def zenml_run_url() -> str:
    """Where a browser finds the running pipeline run: on its server, or where `rlhf ui` serves the local
    database."""
    run = get_step_context().pipeline_run
    local = f"{environment.ZENML_UI}/projects/{run.project.name}/runs/{run.id}"
    return get_run_url(run) or local


def tracked_run(context: StepContext) -> PipelineRun:
    """The run as MLflow knows it: one that goes on with another shares its MLflow run."""
    run = context.pipeline_run
    record = record_of(run)
    before = record.continues if record else None
    first = before.first if before else str(run.id)
    return PipelineRun(first, run.name, context.pipeline.name, continued=before is not None)


@contextmanager
def _sink(run: PipelineRun) -> Iterator[MetricSink]:
    uri = tracking_uri()
    if uri is None:
        logger.warning("The active stack has no MLflow experiment tracker; metrics of this run are not kept.")
        yield NullSink()
        return
    console = Console(file=sys.__stderr__) if sys.__stderr__ and sys.__stderr__.isatty() else None
    page = f"[Pipeline run {run.name}]({zenml_run_url()}): its steps, artifacts and reports."
    tags = {
        "zenml.pipeline": run.pipeline,
        RUN_NAME_TAG: run.name,
        "mlflow.note.content": page,
        "mlflow.source.name": run.pipeline,
        "mlflow.source.type": "PROJECT",
        **code_version(),
    }
    with mlflow_sink(uri, run, tags, console) as sink:
        yield sink
