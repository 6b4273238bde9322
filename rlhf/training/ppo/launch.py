"""PPO on several processes of this machine, started and watched from one that is none of them.

The workers run under ``torch.distributed.run``, talk over the loopback interface only, and end with whoever
launched them.
"""

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from rlhf.errors import ConfigError, RLHFError, TrainingError
from rlhf.models.chat import Prompt
from rlhf.models.settings_rewards import RewardSettings
from rlhf.tracking import MetricSink, NullSink
from rlhf.training.ppo.result import PPOResult
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.ppo.worker import WorkerSpec, replay

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 30.0
"""Given to the launcher to end its workers after SIGTERM."""
_LOG_LINES = 15
"""Of a worker's log in an error message."""


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
        work_dir: gets the workers' logs; what an earlier launch left there is removed.
        proxy: directory of the reward model that ``type: proxy`` means in the rewards.

    Raises:
        ConfigError: this machine has GPUs, but fewer than processes.
        TrainingError: a worker failed; with its message, or the last lines of its log.
    """
    gpus = torch.cuda.device_count()
    if 0 < gpus < settings.processes:
        raise ConfigError(
            f"ppo.processes is {settings.processes}, but this machine has {gpus} GPU(s); set it to {gpus} at "
            "most, or hide the GPUs (CUDA_VISIBLE_DEVICES=) to train on CPUs."
        )
    shutil.rmtree(work_dir, ignore_errors=True)
    work_dir.mkdir(parents=True)
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
        messages=work_dir / "messages.jsonl",
        result=work_dir / "result.json",
    )
    (work_dir / "spec.json").write_text(spec.model_dump_json(), encoding="utf-8")
    spec.messages.touch()
    logger.info("PPO on %d processes; their logs are in %s", settings.processes, work_dir)
    forward = _Forwarding(spec.messages, sink or NullSink())
    with _running(work_dir, settings.processes) as workers, forward:
        while workers.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                workers.wait(_POLL_SECONDS)
            forward()
    if workers.returncode != 0:
        raise TrainingError(failure_message(work_dir, settings.processes))
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

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._stream.close()


@contextmanager
def _running(work_dir: Path, processes: int) -> Iterator[subprocess.Popen[bytes]]:
    """The launcher of the workers, which does not outlive the block."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    command += ["--nproc-per-node", str(processes), "--log-dir", str(work_dir / "logs"), "--redirects", "3"]
    command += ["--module", "rlhf.training.ppo.worker", str(work_dir / "spec.json")]
    with (work_dir / "launcher.log").open("wb") as log:
        launcher = subprocess.Popen(
            command, env=_environment(), stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield launcher
        finally:
            launcher.terminate()
            assert launcher.stdin is not None
            try:
                launcher.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                launcher.kill()
                launcher.wait()
            launcher.stdin.close()


def _environment() -> dict[str, str]:
    # what can be imported here, such as a reward function, can be imported there
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    loopback = {name for _, name in socket.if_nameindex()} & {"lo", "lo0"}
    if loopback:  # gloo would listen on whatever address the host's name has
        environment["GLOO_SOCKET_IFNAME"] = loopback.pop()
    environment.setdefault("OMP_NUM_THREADS", "1")
    return environment


def failure_message(work_dir: Path, processes: int) -> str:
    """What went wrong first, in one worker's words: the others fail because it is gone."""
    records = sorted((work_dir / "logs").rglob("error.json"), key=lambda path: path.stat().st_mtime_ns)
    if not records:
        tail = "\n".join((work_dir / "launcher.log").read_text(errors="replace").splitlines()[-_LOG_LINES:])
        return f"A PPO worker (of {processes}) ended without an error of its own; the launcher's log:\n{tail}"
    message = json.loads(records[0].read_text(encoding="utf-8"))["message"]
    kind, _, text = message["message"].partition(": ")
    if kind in {error.__name__ for error in RLHFError.__subclasses__()}:
        return f"PPO on {processes} processes: {text}"
    tail = "\n".join(message["extraInfo"]["py_callstack"].splitlines()[-_LOG_LINES:])
    return f"PPO worker {records[0].parent.name} of {processes} failed:\n{tail}"
