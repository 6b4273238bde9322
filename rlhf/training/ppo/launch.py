"""PPO on several processes of this machine, started and watched from one that is none of them.

The workers are plain child processes. They find each other through a file in a directory that only this user
may read, talk over the loopback interface only, and end with whoever launched them.
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
from typing import Self

import torch

from rlhf.errors import CheckpointError, ConfigError, RLHFError, TrainingError
from rlhf.models.chat import Prompt
from rlhf.models.settings_rewards import RewardSettings
from rlhf.tracking import MetricSink, NullSink
from rlhf.training.ppo.result import PPOResult
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.ppo.worker import WorkerSpec, replay

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_SETTLE_SECONDS = 3.0
"""Given to the others to say what they suffered when one has failed: the first to be seen gone need not be
the first that failed."""
_GRACE_SECONDS = 30.0
"""Given to the workers to end after SIGTERM."""
_LOG_LINES = 15
"""Of a worker's log in an error message."""
_OF_ANOTHER_LAUNCHER = ("TORCHELASTIC_", "MASTER_ADDR", "MASTER_PORT")
"""Beginnings of the variables by which another launcher would speak to our workers."""


def launch_ppo(
    policy: Path,
    reward: RewardSettings,
    prompts: Sequence[Prompt],
    settings: PPOSettings,
    *,
    output_dir: Path,
    work_dir: Path,
    policy_base: Path | None = None,
    critic: Path | None = None,
    dev_prompts: Sequence[Prompt] = (),
    selection: RewardSettings | None = None,
    proxy: Path | None = None,
    demonstrations: Sequence[tuple[Prompt, str]] = (),
    sink: MetricSink | None = None,
    resume: bool = False,
) -> PPOResult:
    """:func:`~rlhf.training.ppo.trainer.train_ppo` on ``settings.processes`` processes.

    Args:
        reward, selection: as settings, because every worker builds its own.
        work_dir: each launch makes a directory of its own in it, with the workers' logs.
        proxy: directory of the reward model that ``type: proxy`` means in the rewards.

    Raises:
        ConfigError: this machine has GPUs, but fewer than processes, or no loopback interface; or the output
            would lie inside of ``work_dir``.
        TrainingError: a worker failed; with its message, or the last lines of its log.
    """
    gpus = torch.cuda.device_count()
    if 0 < gpus < settings.processes:
        raise ConfigError(
            f"ppo.processes is {settings.processes}, but this machine has {gpus} GPU(s); set it to {gpus} at "
            "most, or hide the GPUs (CUDA_VISIBLE_DEVICES=) to train on CPUs."
        )
    if output_dir.resolve().is_relative_to(work_dir.resolve()):
        raise ConfigError(
            f"The output directory {output_dir} lies in the scratch directory {work_dir}, which may be "
            "cleared at any time; choose another."
        )
    environment = _environment()
    work_dir.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="launch-", dir=work_dir))  # readable by this user only
    spec = WorkerSpec(
        policy=policy,
        policy_base=policy_base,
        critic=critic,
        reward=reward,
        selection=selection,
        proxy=proxy,
        prompts=list(prompts),
        dev_prompts=list(dev_prompts),
        demonstrations=list(demonstrations),
        settings=settings,
        output_dir=output_dir,
        resume=resume,
        rendezvous=folder / "rendezvous",
        messages=folder / "messages.jsonl",
        result=folder / "result.json",
    )
    (folder / "spec.json").write_text(spec.model_dump_json(), encoding="utf-8")
    spec.messages.touch()
    logger.info("PPO on %d processes; their logs are in %s", settings.processes, folder)
    with _Forwarding(spec.messages, sink or NullSink()) as forward:
        with _running(folder, settings.processes, environment) as workers:
            while not any(codes := [w.poll() for w in workers]) and None in codes:
                with suppress(subprocess.TimeoutExpired):
                    workers[codes.index(None)].wait(_POLL_SECONDS)
                forward()
            codes = _settled(workers)
        forward()  # what was written while a slow sink was busy with what came before
    if any(codes):
        raise failure(folder, codes)
    return PPOResult.from_json(json.loads(spec.result.read_text(encoding="utf-8")))


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
    folder: Path, processes: int, environment: Mapping[str, str]
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The workers by rank; none outlives the block."""
    workers: list[subprocess.Popen[bytes]] = []
    command = [sys.executable, "-m", "rlhf.training.ppo.worker", str(folder / "spec.json")]
    try:
        for rank in range(processes):
            place = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(processes),
                "LOCAL_WORLD_SIZE": str(processes),
                "TORCHELASTIC_ERROR_FILE": str(_error_file(folder, rank)),
            }
            with _log_file(folder, rank).open("wb") as log:
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
            worker.terminate()
        deadline = time.monotonic() + _GRACE_SECONDS
        for worker in workers:
            try:
                worker.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
            assert worker.stdin is not None
            worker.stdin.close()


def _settled(workers: Sequence[subprocess.Popen[bytes]]) -> list[int | None]:
    """Exit codes once all have ended, or shortly after one has failed; ``None`` of those still running."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while None in (codes := [w.poll() for w in workers]) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return codes


def _environment() -> dict[str, str]:
    """Of the workers, but for each one's rank.

    Raises:
        ConfigError: there is no loopback interface.
    """
    loopback = sorted({name for _, name in socket.if_nameindex()} & {"lo", "lo0"})
    if not loopback:
        raise ConfigError(
            "This machine has no loopback interface (lo), over which several PPO processes would talk; set "
            "ppo.processes to 1."
        )
    inherited = {name: v for name, v in os.environ.items() if not name.startswith(_OF_ANOTHER_LAUNCHER)}
    return {
        "OMP_NUM_THREADS": "1",
        **inherited,
        # what can be imported here, such as a reward function, can be imported there
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        # both would listen on whatever address the host's name has
        "GLOO_SOCKET_IFNAME": loopback[0],
        "NCCL_SOCKET_IFNAME": loopback[0],
        "NCCL_RAS_ENABLE": "0",  # a diagnosis service that listens, too, and that nobody asks here
    }


def failure(folder: Path, codes: Sequence[int | None]) -> TrainingError:
    """What went wrong first: when a worker is gone the others fail, too, for they lose their connection.

    Args:
        folder: of the launch.
        codes: exit codes of the workers by rank, before any was ended from here; at least one is a failure.

    Returns:
        A :class:`CheckpointError` where workers refused the checkpoint, so that a caller may start anew.
    """
    count = len(codes)
    killed = {rank: -code for rank, code in enumerate(codes) if code is not None and code < 0}
    for rank, number in killed.items():
        if number == signal.SIGKILL:
            return TrainingError(
                f"PPO worker {rank} of {count} was killed by SIGKILL, probably out of memory; lower "
                "ppo.processes or ppo.micro_batch_tokens, or free memory (its log is "
                f"{_log_file(folder, rank)})."
            )
    errors = [(rank, path) for rank in range(count) if (path := _error_file(folder, rank)).exists()]
    errors.sort(key=lambda error: error[1].stat().st_mtime_ns)
    # the communication libraries abort a process that has lost another
    for rank, number in sorted(killed.items(), key=lambda item: item[1] == signal.SIGABRT):
        if not errors or number != signal.SIGABRT:
            name = signal.Signals(number).name
            return TrainingError(
                f"PPO worker {rank} of {count} was killed by {name}; its log ends:\n{_tail(folder, rank)}"
            )
    if not errors:
        rank, code = next((rank, code) for rank, code in enumerate(codes) if code)
        return TrainingError(
            f"PPO worker {rank} of {count} ended with code {code} and without an error; its log ends:\n"
            f"{_tail(folder, rank)}"
        )
    rank, path = errors[0]
    message = json.loads(path.read_text(encoding="utf-8"))["message"]
    kind, _, text = message["message"].partition(": ")
    if kind in _names_of_errors(RLHFError):
        refused = CheckpointError if kind == CheckpointError.__name__ else TrainingError
        return refused(f"PPO on {count} processes: {text}")
    trace = "\n".join(message["extraInfo"]["py_callstack"].splitlines()[-_LOG_LINES:])
    return TrainingError(f"PPO worker {rank} of {count} failed:\n{trace}")


def _names_of_errors(base: type[Exception]) -> set[str]:
    return {base.__name__}.union(*(_names_of_errors(error) for error in base.__subclasses__()))


def _tail(folder: Path, rank: int) -> str:
    return "\n".join(_log_file(folder, rank).read_text(errors="replace").splitlines()[-_LOG_LINES:])


def _log_file(folder: Path, rank: int) -> Path:
    return folder / f"worker{rank}.log"


def _error_file(folder: Path, rank: int) -> Path:
    """Gets a worker's error from ``torch.distributed.elastic``'s ``record``."""
    return folder / f"worker{rank}.error.json"
