"""Going on with a pipeline run that was interrupted: which one, and what the new run takes over from it.

Every run that `rlhf run` starts carries a :class:`RunRecord` in ZenML's ``extra``, where its steps read it on
whatever machine they run. A run whose process is gone is known by a lock that ended with the process.
"""

import logging
import platform
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict
from zenml import log_metadata
from zenml.client import Client
from zenml.enums import ExecutionStatus
from zenml.models import PipelineRunResponse, PipelineRunUpdate, StepRunUpdate
from zenml.utils.time_utils import utc_now

from ops import environment
from rlhf.errors import ConfigError
from rlhf.feedback.ledger.reference import LedgerRef
from rlhf.feedback.rows import sha256_of

logger = logging.getLogger(__name__)

PIPELINE = "rlhf_pipeline"
EXTRA = "rlhf"
INTERRUPTED = "interrupted"
"""ZenML metadata of a run that ended though nothing was wrong with it: why."""
DEFAULT_GRACE_SECONDS = 60.0
_LATEST = 100
_VMSTAT = Path("/proc/vmstat")
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Continuation(BaseModel):
    """What a run takes over from the interrupted one that it goes on with."""

    model_config = ConfigDict(frozen=True)

    run: str
    """ZenML id of the interrupted run."""
    name: str
    """Its name."""
    first: str
    """ZenML id of the first run of the chain, whose MLflow run all of them share."""
    feedback: Mapping[str, Any] | None = None
    """The :class:`LedgerRef` that it worked with; ``None`` if it was interrupted before it had one."""


class RunRecord(BaseModel):
    """What a run says of itself, for the one that may have to go on with it."""

    model_config = ConfigDict(frozen=True)

    config: str
    """Name of its file in ``configs/`` of the state folder; also of its lock."""
    parameters: str
    """Digest of the config's parameters."""
    host: str
    boot: str = ""
    """Of the host: a counter of the kernel's is only comparable within one."""
    out_of_memory_kills: int = 0
    """The kernel's counter when the run started."""
    grace_seconds: float = DEFAULT_GRACE_SECONDS
    """How long a step may take to write a checkpoint after SIGTERM."""
    continues: Continuation | None = None


def record_of(run: PipelineRunResponse) -> RunRecord | None:
    """The record that a run carries; ``None`` for one that ZenML's own command started."""
    found = run.config.extra.get(EXTRA)
    return None if found is None else RunRecord.model_validate(found)


def new_record(
    config: Mapping[str, Any], file: str, interrupted: PipelineRunResponse | None, *, grace_seconds: float
) -> RunRecord:
    """The record of a run that is about to start.

    Args:
        file: name of the file that keeps the config.
        interrupted: the run that it goes on with.
    """
    return RunRecord(
        config=file,
        parameters=parameters_digest(config),
        host=socket.gethostname(),
        boot=_boot(),
        out_of_memory_kills=_out_of_memory_kills(),
        grace_seconds=grace_seconds,
        continues=None if interrupted is None else _continuation(interrupted),
    )


def parameters_digest(config: Mapping[str, Any]) -> str:
    """Equal for configs that ask for the same run; references to the environment count as written."""
    return sha256_of(config.get("parameters"))


@contextmanager
def at_work(record: RunRecord) -> Iterator[None]:
    """While it lasts, other processes of this machine see that the run is alive; so do they not after a
    kill."""
    lock = _lock(record)
    try:
        with lock:
            yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)


def settle_orphans() -> None:
    """Mark runs as failed whose process is gone without a word, as after a SIGKILL: nobody else would."""
    for run in _latest_runs():
        if run.status.is_finished:
            continue
        record = record_of(run)
        if record is None or _may_be_alive(run, record):
            continue
        reason = _why_it_ended(record)
        store = Client().zen_store
        for step in run.steps.values():
            if not step.status.is_finished:
                failed = StepRunUpdate(status=ExecutionStatus.FAILED, end_time=utc_now())
                store.update_run_step(step.id, failed)
            shutil.rmtree(environment.scratch() / str(step.id), ignore_errors=True)
        if not Client().get_pipeline_run(run.id).status.is_finished:
            store.update_run(
                run.id, PipelineRunUpdate(status=ExecutionStatus.FAILED, status_reason=reason[:250])
            )
        log_metadata(metadata={INTERRUPTED: reason}, run_id_name_or_prefix=run.id)
        logger.warning("The run %s was interrupted: %s", run.name, reason)


def interrupted_run(config: Mapping[str, Any] | None, *, also_failed: bool) -> PipelineRunResponse | None:
    """The newest run with these parameters, if it was interrupted and none has gone on with it.

    Args:
        config: the config, or ``None`` for whatever was interrupted last.
        also_failed: take one that a step's error ended, too.

    Raises:
        ConfigError: that run is still at work.
    """
    wanted = None if config is None else parameters_digest(config)
    seen = set()
    for run in _latest_runs():
        record = record_of(run)
        if record is None or record.parameters in seen or wanted not in (None, record.parameters):
            continue
        seen.add(record.parameters)  # an older run with the same parameters was gone on with, or given up
        failed = run.status == ExecutionStatus.FAILED and also_failed
        if failed or (run.status.is_finished and INTERRUPTED in run.run_metadata):
            return run
        if wanted is not None and also_failed and not run.status.is_finished:
            raise ConfigError(
                f"The run {run.name} on {record.host} is still at work; wait for its end, or stop it and run "
                "again. If that machine is lost, start with --no-resume: training still goes on from "
                "checkpoints that it left in the artifact store."
            )
    return None


def kept_config(run: PipelineRunResponse) -> Path:
    """The file that keeps the config of an interrupted run.

    Raises:
        ConfigError: it is gone.
    """
    record = record_of(run)
    assert record is not None  # only such runs are found
    path = environment.home() / "configs" / record.config
    if not path.is_file():
        raise ConfigError(f"The config of the run {run.name}, {path}, is gone; name the config to resume.")
    return path


def pinned_feedback(run: PipelineRunResponse) -> LedgerRef | None:
    """The state of the feedback that a continued run has to work with."""
    record = record_of(run)
    if record is None or record.continues is None or record.continues.feedback is None:
        return None
    kept = record.continues.feedback
    return LedgerRef(**{**kept, "source_keys": tuple(kept["source_keys"])})


def _continuation(run: PipelineRunResponse) -> Continuation:
    record = record_of(run)
    earlier = record.continues if record else None
    feedback = earlier.feedback if earlier else None
    ingested = run.steps.get("ingest_feedback")
    if feedback is None and ingested is not None and ingested.outputs.get("feedback"):
        loaded = ingested.outputs["feedback"][0].load()
        feedback = {**vars(loaded), "source_keys": list(loaded.source_keys)}
    return Continuation(
        run=str(run.id), name=run.name, first=earlier.first if earlier else str(run.id), feedback=feedback
    )


def _latest_runs() -> Iterator[PipelineRunResponse]:
    """Runs of the pipeline, newest first; what is asked of one beyond its status is fetched then."""
    found = Client().list_pipeline_runs(pipeline=PIPELINE, size=_LATEST, sort_by="desc:created")
    return iter(found.items)


def _may_be_alive(run: PipelineRunResponse, record: RunRecord) -> bool:
    stack = run.stack
    orchestrators = [] if stack is None else stack.components.get("orchestrator", [])  # type: ignore[call-overload]
    if any(orchestrator.flavor_name != "local" for orchestrator in orchestrators):
        return True  # its orchestrator knows, and tells ZenML
    if record.host != socket.gethostname():
        return True
    lock = _lock(record)
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True


def _lock(record: RunRecord) -> FileLock:
    folder = environment.home() / "running"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{record.config}.lock")


def _why_it_ended(record: RunRecord) -> str:
    kills = _out_of_memory_kills() - record.out_of_memory_kills
    if kills > 0 and record.boot == _boot():
        return (
            f"its process was killed, and the kernel has killed {kills} process(es) for want of memory since "
            "it started; lower sft.micro_batch_size, reward_model.micro_batch_size or "
            "ppo.micro_batch_tokens, turn gradient_checkpointing on, or train with lora."
        )
    if record.boot and record.boot != _boot():
        return "the machine was started anew."
    return "its process was killed."


def _out_of_memory_kills() -> int:
    """The kernel's count since it started; 0 where there is none."""
    if platform.system() != "Linux" or not _VMSTAT.exists():
        return 0
    lines = _VMSTAT.read_text(encoding="ascii").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def _boot() -> str:
    return _BOOT.read_text(encoding="ascii").strip() if _BOOT.exists() else ""
