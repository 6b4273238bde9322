"""One of several training processes, as ``launch`` starts them:
``python -m rlhf.training.worker MODULE:JOB FOLDER``.

It reads its job from the launch's folder, joins the others, does the job, and leaves metrics and result as
files, which the process that launched it reads.
"""

import importlib
import json
import logging
import os
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch.distributed.elastic.multiprocessing.errors import record

from rlhf.settings import Settings
from rlhf.tracking import MetricSink
from rlhf.training.interruption import request_stop
from rlhf.training.processes import joined_processes

JOB = "job.json"
RENDEZVOUS = "rendezvous"
"""File through which the workers of one machine find each other."""
MESSAGES = "messages.jsonl"
"""File that gets the metric sink's calls, one JSON object per line."""
RESULT = "result.json"
STOP = b"s"
"""Written to a worker's standard input to make it write a checkpoint and end."""


class Job(Settings, ABC):
    """A training with its arguments as JSON: objects do not travel between processes, so that each worker
    builds its own."""

    NAME: ClassVar[str]
    """Of the training in messages, such as ``PPO``."""
    SECTION: ClassVar[str]
    """Of its settings, such as ``ppo``."""
    MEMORY: ClassVar[str]
    """Name of the setting that most lowers memory."""

    @abstractmethod
    def run(self, sink: MetricSink | None) -> Any:
        """Train as one of the joined processes.

        Args:
            sink: of process 0; the others have none.

        Returns:
            The result as JSON values; process 0's is kept.
        """


class JSONLinesSink:
    """Writes every call as a line of JSON; :func:`replay` makes it again on another sink."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("a", encoding="utf-8")

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self._write("log_metrics", metrics=dict(metrics), step=step)

    def log_params(self, params: Mapping[str, object]) -> None:
        self._write("log_params", params=dict(params))

    def log_text(self, text: str, name: str) -> None:
        self._write("log_text", text=text, name=name)

    def progress(self, done: int, total: int, note: str = "") -> None:
        self._write("progress", done=done, total=total, note=note)

    def _write(self, call: str, **arguments: object) -> None:
        self._stream.write(json.dumps({"call": call, **arguments}) + "\n")
        self._stream.flush()


def replay(line: bytes, sink: MetricSink) -> None:
    """Make the call that :class:`JSONLinesSink` wrote."""
    arguments = json.loads(line)
    match arguments.pop("call"):
        case "log_metrics":
            sink.log_metrics(**arguments)
        case "log_params":
            sink.log_params(**arguments)
        case "log_text":
            sink.log_text(**arguments)
        case "progress":
            sink.progress(**arguments)


@record
def main() -> None:
    """Do the job, as one of the processes that the environment tells of."""
    logging.basicConfig(level=logging.INFO)
    # whoever stops a whole group of processes, as systemd does, stops us with the launcher
    signal.signal(signal.SIGTERM, lambda *_: request_stop())
    threading.Thread(target=_obey_the_launcher, daemon=True).start()
    module, _, name = sys.argv[1].partition(":")
    folder = Path(sys.argv[2])
    kind: type[Job] = getattr(importlib.import_module(module), name)
    job = kind.model_validate_json((folder / JOB).read_text(encoding="utf-8"))
    over_network = "MASTER_ADDR" in os.environ
    with joined_processes(rendezvous=None if over_network else folder / RENDEZVOUS) as processes:
        result = job.run(JSONLinesSink(folder / MESSAGES) if processes.rank == 0 else None)
        if processes.rank == 0:
            partial = (folder / RESULT).with_suffix(".partial")
            partial.write_text(json.dumps(result), encoding="utf-8")
            partial.rename(folder / RESULT)


def _obey_the_launcher() -> None:
    """Standard input is a pipe that ends when the launching process does, even by a kill, and training that
    nobody waits for must not go on beside a new attempt."""
    while os.read(sys.stdin.fileno(), 1) == STOP:
        request_stop()
    os._exit(1)


if __name__ == "__main__":
    main()
