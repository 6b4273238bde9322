"""One of several PPO processes, as ``launch`` starts them: ``python -m rlhf.training.ppo.worker SPEC.json``.

It rebuilds the rewards from their settings (objects do not travel), trains, and leaves metrics and result as
files, which the process that launched it reads.
"""

import json
import logging
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import record

from rlhf.models.rewards import build_reward
from rlhf.models.settings_rewards import RewardSettings
from rlhf.settings import Settings
from rlhf.tracking import MetricSink, RecordingSink
from rlhf.training.ppo.processes import joined_processes
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.ppo.trainer import train_ppo


class WorkerSpec(Settings):
    """The arguments of ``train_ppo`` as JSON, and where the workers leave what they have to say."""

    policy: Path
    """Directory of the policy to start from."""
    policy_base: Path | None
    """The model that ``policy`` was trained on, if that is an unmerged adapter."""
    critic: Path | None
    """Directory of the reward model that a separate critic starts from."""
    reward: RewardSettings
    """What is maximised."""
    selection: RewardSettings | None
    """What chooses the checkpoint."""
    proxy: Path | None
    """Directory of the reward model that ``type: proxy`` means."""
    prompts: list[Any]
    """Prompts of training, text or chat messages."""
    dev_prompts: list[Any]
    """Prompts of the evaluations."""
    demonstrations: list[tuple[Any, str]]
    """(prompt, completion) pairs for PPO-ptx."""
    settings: PPOSettings
    """Of the run."""
    output_dir: Path
    """Gets checkpoints and the delivered policy."""
    resume: bool
    """Continue from the newest checkpoint."""
    rendezvous: Path
    """File through which the workers find each other."""
    messages: Path
    """File that gets the metric sink's calls, one JSON object per line."""
    result: Path
    """File that gets the result."""


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
    """Train, as one of the processes that the environment tells of."""
    logging.basicConfig(level=logging.INFO)
    threading.Thread(target=_end_with_the_launcher, daemon=True).start()
    spec = WorkerSpec.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with joined_processes(rendezvous=spec.rendezvous) as processes:
        result = train_ppo(
            spec.policy,
            build_reward(spec.reward, proxy=spec.proxy),
            spec.prompts,
            spec.settings,
            output_dir=spec.output_dir,
            policy_base=spec.policy_base,
            critic=spec.critic,
            dev_prompts=spec.dev_prompts,
            selection=None if spec.selection is None else build_reward(spec.selection, proxy=spec.proxy),
            demonstrations=spec.demonstrations,
            sink=RecordingSink(JSONLinesSink(spec.messages)) if processes.rank == 0 else None,
            resume=spec.resume,
        )
        if processes.rank == 0:
            partial = spec.result.with_suffix(".partial")
            partial.write_text(json.dumps(result.to_json()), encoding="utf-8")
            partial.rename(spec.result)


def _end_with_the_launcher() -> None:
    """Standard input is a pipe that the launching process never writes to: it ends when that process does,
    even by a kill, and training that nobody waits for must not go on beside a new attempt."""
    if os.read(sys.stdin.fileno(), 1) == b"":
        os._exit(1)


if __name__ == "__main__":
    main()
