"""A training on several processes, started and watched from one that is none of them.

The workers are plain child processes. On one machine they find each other through a file in a directory that
only this user may read, talk over the loopback interface only, and end with whoever launched them. On several
machines one launch on each (:mod:`rlhf.training.machines`) makes one run.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import torch

from rlhf.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    InterruptedRunError,
    ModelError,
    RLHFError,
    TrainingError,
)
from rlhf.tracking import MetricSink, NullSink
from rlhf.training.interruption import stop_requested
from rlhf.training.machines import Machines
from rlhf.training.worker import JOB, MESSAGES, RESULT, STOP, Job, replay

logger = logging.getLogger(__name__)

Worker = subprocess.Popen[bytes]

_POLL_SECONDS = 0.2
_SETTLE_SECONDS = 3.0
"""Given to the others to say what they suffered when one has failed: the first to be seen gone need not be
the first that failed."""
_GRACE_SECONDS = 30.0
"""Given to the workers to end after their launcher has left them."""
_LOG_LINES = 15
"""Of a worker's log in an error message."""
_OF_ANOTHER_LAUNCHER = ("TORCHELASTIC_", "MASTER_ADDR", "MASTER_PORT")
"""Beginnings of the variables by which another launcher would speak to our workers."""
_KEPT_ERRORS = (CheckpointError, ConfigError, DataError, InterruptedRunError, ModelError)
"""What a worker says as itself; anything else is a training that failed."""


def launch(
    job: Job,
    *,
    processes: int,
    work_dir: Path,
    sink: MetricSink | None = None,
    machines: Machines | None = None,
) -> Any:
    """Do a job on several processes.

    Args:
        processes: on this machine.
        work_dir: each launch makes a directory of its own in it, with the workers' logs.
        machines: where others take part, each of which launches the same job.

    Returns:
        What :meth:`Job.run` gave on process 0; ``None`` on other machines than its own.

    Raises:
        ConfigError: this machine has GPUs, but fewer than processes, or no loopback interface.
        InterruptedRunError: a stop was requested, and a checkpoint has been written.
        TrainingError: a worker failed; with its message, or the last lines of its log. Errors of settings,
            data, models and checkpoints keep their kind.
    """
    gpus = torch.cuda.device_count()
    if 0 < gpus < processes:
        raise ConfigError(
            f"{job.SECTION}.processes is {processes}, but this machine has {gpus} GPU(s); set it to {gpus} "
            "at most, or hide the GPUs (CUDA_VISIBLE_DEVICES=) to train on CPUs."
        )
    environment = _environment(job, machines)
    work_dir.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="launch-", dir=work_dir))  # readable by this user only
    (folder / JOB).write_text(job.model_dump_json(), encoding="utf-8")
    (folder / MESSAGES).touch()
    logger.info("%s on %d processes; their logs are in %s", job.NAME, processes, folder)
    with _Forwarding(folder / MESSAGES, sink or NullSink()) as forward:
        with _running(job, folder, processes, environment, machines) as workers:
            told = False
            while not any(codes := [w.poll() for w in workers]) and None in codes:
                with suppress(subprocess.TimeoutExpired):
                    workers[codes.index(None)].wait(_POLL_SECONDS)
                if stop_requested() and not told:
                    _ask_to_stop(workers)
                    told = True
                forward()
            codes = _settled(workers)
        forward()  # what was written while a slow sink was busy with what came before
    if any(codes):
        raise failure(job, folder, codes)
    result = folder / RESULT
    return json.loads(result.read_text(encoding="utf-8")) if result.exists() else None


class _Forwarding:
    """Makes the calls that process 0 has written since the last time on a sink of this process."""

    def __init__(self, messages: Path, sink: MetricSink) -> None:
        self._stream = messages.open("rb")
        self._sink = sink
        self._begun = b""

    def __call__(self) -> None:
        *lines, self._begun = (self._begun + self._stream.read()).split(b"\n")
        for line in lines:
            replay(line, self._sink)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


@contextmanager
def _running(
    job: Job, folder: Path, processes: int, environment: Mapping[str, str], machines: Machines | None
) -> Iterator[list[Worker]]:
    """The workers of this machine by rank; none outlives the block."""
    workers: list[Worker] = []
    kind = f"{type(job).__module__}:{type(job).__qualname__}"
    command = [sys.executable, "-m", "rlhf.training.worker", kind, str(folder)]
    first = machines.index * processes if machines else 0
    try:
        for local in range(processes):
            place = {
                "RANK": str(first + local),
                "LOCAL_RANK": str(local),
                "WORLD_SIZE": str(processes * (machines.count if machines else 1)),
                "LOCAL_WORLD_SIZE": str(processes),
                "TORCHELASTIC_ERROR_FILE": str(_error_file(folder, local)),
            }
            with _log_file(folder, local).open("wb") as log:
                workers.append(
                    subprocess.Popen(
                        command,
                        env={**environment, **place},
                        stdin=subprocess.PIPE,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                    )
                )
        yield workers
    finally:
        for worker in workers:
            assert worker.stdin is not None
            with suppress(OSError):  # a request to stop that it did not live to read
                worker.stdin.close()  # makes it end at once; SIGTERM would have it finish its step first
        deadline = time.monotonic() + _GRACE_SECONDS
        for worker in workers:
            try:
                worker.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()


def _ask_to_stop(workers: Sequence[Worker]) -> None:
    for worker in workers:
        assert worker.stdin is not None
        with suppress(OSError):  # it has ended meanwhile
            worker.stdin.write(STOP)
            worker.stdin.flush()


def _settled(workers: Sequence[Worker]) -> list[int | None]:
    """Exit codes once all have ended, or shortly after one has failed; ``None`` of those still running."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while None in (codes := [w.poll() for w in workers]) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return codes


def _environment(job: Job, machines: Machines | None) -> dict[str, str]:
    """Of the workers, but for each one's rank.

    Raises:
        ConfigError: there is no loopback interface.
    """
    inherited = {name: v for name, v in os.environ.items() if not name.startswith(_OF_ANOTHER_LAUNCHER)}
    shared = {
        "OMP_NUM_THREADS": "1",
        **inherited,
        # what can be imported here, such as a reward function, can be imported there
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "NCCL_RAS_ENABLE": "0",  # a diagnosis service that listens, too, and that nobody asks here
    }
    if machines is not None:
        return {**shared, "MASTER_ADDR": machines.address, "MASTER_PORT": str(machines.port)}
    loopback = sorted({name for _, name in socket.if_nameindex()} & {"lo", "lo0"})
    if not loopback:
        raise ConfigError(
            f"This machine has no loopback interface (lo), over which several {job.NAME} processes would "
            f"talk; set {job.SECTION}.processes to 1."
        )
    # both would listen on whatever address the host's name has
    return {**shared, "GLOO_SOCKET_IFNAME": loopback[0], "NCCL_SOCKET_IFNAME": loopback[0]}


def failure(job: Job, folder: Path, codes: Sequence[int | None]) -> RLHFError:
    """What went wrong first: when a worker is gone the others fail, too, for they lose their connection.

    Args:
        folder: of the launch.
        codes: exit codes of the workers by rank, before any was ended from here; at least one is a failure.

    Returns:
        A :class:`TrainingError`, or the worker's own error where it is one of settings, data, models or
        checkpoints, or of a stop that was requested.
    """
    count = len(codes)
    killed = {rank: -code for rank, code in enumerate(codes) if code is not None and code < 0}
    for rank, number in killed.items():
        if number == signal.SIGKILL:
            return TrainingError(
                f"{job.NAME} worker {rank} of {count} was killed by SIGKILL, probably out of memory; lower "
                f"{job.SECTION}.processes or {job.SECTION}.{job.MEMORY}, or free memory (its log is "
                f"{_log_file(folder, rank)})."
            )
    errors = [(rank, path) for rank in range(count) if (path := _error_file(folder, rank)).exists()]
    errors.sort(key=lambda error: error[1].stat().st_mtime_ns)
    # the communication libraries abort a process that has lost another
    for rank, number in sorted(killed.items(), key=lambda item: item[1] == signal.SIGABRT):
        if not errors or number != signal.SIGABRT:
            name = signal.Signals(number).name
            return TrainingError(
                f"{job.NAME} worker {rank} of {count} was killed by {name}; its log ends:\n"
                f"{_tail(folder, rank)}"
            )
    if not errors:
        rank, code = next((rank, code) for rank, code in enumerate(codes) if code)
        return TrainingError(
            f"{job.NAME} worker {rank} of {count} ended with code {code} and without an error; its log "
            f"ends:\n{_tail(folder, rank)}"
        )
    rank, path = errors[0]
    message = json.loads(path.read_text(encoding="utf-8"))["message"]
    name, _, text = message["message"].partition(": ")
    kind = _errors_by_name(RLHFError).get(name)
    if kind is not None and issubclass(kind, InterruptedRunError):
        return kind(text)
    if kind is not None:
        told = kind if issubclass(kind, _KEPT_ERRORS) else TrainingError
        return told(f"{job.NAME} on {count} processes: {text}")
    trace = "\n".join(message["extraInfo"]["py_callstack"].splitlines()[-_LOG_LINES:])
    return TrainingError(f"{job.NAME} worker {rank} of {count} failed:\n{trace}")


def _errors_by_name(base: type[RLHFError]) -> dict[str, type[RLHFError]]:
    found = {base.__name__: base}
    for error in base.__subclasses__():
        found |= _errors_by_name(error)
    return found


def _tail(folder: Path, rank: int) -> str:
    return "\n".join(_log_file(folder, rank).read_text(errors="replace").splitlines()[-_LOG_LINES:])


def _log_file(folder: Path, rank: int) -> Path:
    return folder / f"worker{rank}.log"


def _error_file(folder: Path, rank: int) -> Path:
    """Gets a worker's error from ``torch.distributed.elastic``'s ``record``."""
    return folder / f"worker{rank}.error.json"
