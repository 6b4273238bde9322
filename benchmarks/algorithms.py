"""PPO, RLOO, GRPO, DPO and KTO in equal time: `python benchmarks/algorithms.py --seconds 100`.

All start from one supervised policy and share two reward models, which are trained once from the config
and kept in ``--work``. Each algorithm runs with its section of the config; only the length of its run is
set, from the speed of a few updates, so that training with its dev evaluations takes the given time. The
delivered policies answer the test prompts and are judged by the simulation's truth (`gold`), which training
never sees. Time is the CPU's: of one thread, it is the wall time on an idle machine, and other work beside it
hardly changes it. The seconds that were really taken stand in the table.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

from ops import environment

environment.configure()

from datasets import DatasetDict  # noqa: E402  # the environment is read when libraries are imported
from pydantic import BaseModel  # noqa: E402

from ops.run_config import apply_overrides, checked, find_config, read_config  # noqa: E402
from rlhf.evaluation.policy import evaluate_policy  # noqa: E402
from rlhf.feedback.ingest import ingest  # noqa: E402
from rlhf.feedback.views import prepare  # noqa: E402
from rlhf.models.directory import MANIFEST  # noqa: E402
from rlhf.models.rewards import FunctionReward  # noqa: E402
from rlhf.tracking import NullSink  # noqa: E402
from rlhf.training.policy import TrainedPolicy, train_policy  # noqa: E402
from rlhf.training.ppo.settings import PPOSettings  # noqa: E402
from rlhf.training.pretrain import pretrain  # noqa: E402
from rlhf.training.reward_model import train_reward_model  # noqa: E402
from rlhf.training.settings import PretrainSettings  # noqa: E402
from rlhf.training.settings_policy import DPOSettings, KTOSettings, PolicySettings  # noqa: E402
from rlhf.training.sft import train_sft  # noqa: E402

ALGORITHMS = ("ppo", "rloo", "grpo", "dpo", "kto")
EVALUATIONS = 5
"""Dev evaluations of every run after the first one."""
CALIBRATION = 4
"""Updates from which an algorithm's speed is taken; the first is left out."""


@dataclass(frozen=True)
class Foundation:
    """What all algorithms start from."""

    sft: Path
    proxy: Path
    selection: Path
    prompts: DatasetDict
    comparisons: DatasetDict


@dataclass(frozen=True)
class Measurement:
    """One algorithm with one seed."""

    algorithm: str
    seed: int
    updates: int
    seconds: float
    best_update: int
    gold_sft: float
    gold: float
    gold_win_rate: float
    kl: float
    length: float


@dataclass
class Clock(NullSink):
    """When each update and the first evaluation were over."""

    started: float = field(default_factory=time.process_time)
    updates: list[float] = field(default_factory=list)
    first_evaluation: float = 0.0

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:  # type: ignore[override]
        if step == 0 and any("_eval/" in name for name in metrics):
            self.first_evaluation = time.process_time() - self.started

    def progress(self, done: int, total: int, note: str = "") -> None:
        self.updates.append(time.process_time())


def main() -> None:
    """Run the algorithms in turn and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="support_desk")
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS))
    parser.add_argument("--seconds", type=float, default=120.0, help="CPU seconds for each algorithm")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--work", type=Path, help="where the shared models are kept for another run")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("overrides", nargs="*", help="settings as key.path=value")
    arguments = parser.parse_args()
    parameters = checked(apply_overrides(read_config(find_config(arguments.config)), arguments.overrides))
    results = []
    with tempfile.TemporaryDirectory(prefix="rlhf-algorithms-") as folder:
        foundation = build(parameters, arguments.work or Path(folder) / "foundation")
        for seed in arguments.seeds:
            for name in arguments.algorithms:
                work = Path(folder) / f"{name}-{seed}"
                results.append(measure(name, seed, parameters, foundation, work, arguments.seconds))
                print(json.dumps(asdict(results[-1])), flush=True)
    print(
        f"\n{date.today()}, {platform.platform()}, {os.cpu_count()} cores, "
        f"{os.environ.get('OMP_NUM_THREADS', 'all')} thread(s), seeds {arguments.seeds}, "
        f"{arguments.seconds:g} CPU s each\n"
    )
    print(table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(r) for r in results], indent=1))


def build(parameters: BaseModel, work: Path) -> Foundation:
    """The models that all share, trained unless ``work`` holds them, and the views."""
    values = dict(parameters)
    views = prepare(ingest(values["feedback"]).table, values["datasets"])
    base, sft, proxy, selection = (work / name for name in ("base", "sft", "proxy", "selection"))
    if not _sealed(base):
        pretrain(views.text, values["pretrain"] or PretrainSettings(), base, seed=values["seed"])
    if not _sealed(sft):
        train_sft(base, views.demonstrations, values["sft"], sft, seed=values["seed"])
    for fold, path in enumerate((proxy, selection)):
        if not _sealed(path):
            seed = values["seed"] + fold
            train_reward_model(sft, views.comparisons, values["reward_model"], path, fold=fold, seed=seed)
    return Foundation(sft, proxy, selection, views.prompts, views.comparisons)


def measure(
    name: str, seed: int, parameters: BaseModel, foundation: Foundation, work: Path, seconds: float
) -> Measurement:
    """Train one algorithm for about ``seconds`` and judge what it delivers."""
    values = dict(parameters)
    settings = values[name]
    clock = Clock()
    _train(_of_length(settings, CALIBRATION, CALIBRATION), foundation, work / "calibration", seed, clock)
    per_update = (clock.updates[-2] - clock.updates[0]) / (CALIBRATION - 2)
    left = seconds - (EVALUATIONS + 1) * clock.first_evaluation
    updates = max(EVALUATIONS, int(left / per_update))
    started = time.process_time()
    trained = _train(
        _of_length(settings, updates, -(-updates // EVALUATIONS)), foundation, work, seed, NullSink()
    )
    taken = time.process_time() - started
    rewards = {judge: FunctionReward(function) for judge, function in values["evaluation"].rewards.items()}
    found = evaluate_policy(
        trained.policy.path,
        foundation.sft,
        foundation.prompts["test"]["prompt"],
        rewards,
        values["evaluation"],
    )
    figures = found.metrics
    return Measurement(
        algorithm=name,
        seed=seed,
        updates=updates,
        seconds=taken,
        best_update=int(trained.policy.metrics[f"{name}/best_update"]),
        gold_sft=figures["eval/gold/sft"],
        gold=figures["eval/gold/policy"],
        gold_win_rate=figures["eval/gold/win_rate_vs_sft"],
        kl=figures["eval/kl"],
        length=trained.policy.metrics[f"{name}_eval/length"],
    )


def _of_length(settings: PolicySettings, updates: int, evaluate_every: int) -> PolicySettings:
    """The settings with another length of run, and no checkpoints on the way."""
    length = "max_steps" if isinstance(settings, DPOSettings | KTOSettings) else "updates"
    change = {length: updates, "evaluate_every": evaluate_every, "checkpoint_every": updates}
    if isinstance(settings, PPOSettings):
        change["critic_warmup_updates"] = min(settings.critic_warmup_updates, updates - 1)
    return settings.model_copy(update=change)


def _train(
    settings: PolicySettings, foundation: Foundation, work: Path, seed: int, sink: NullSink
) -> TrainedPolicy:
    return train_policy(
        foundation.sft,
        proxy=foundation.proxy,
        selection=foundation.selection,
        prompts=foundation.prompts,
        comparisons=foundation.comparisons,
        settings=settings,
        output_dir=work / "policy",
        work_dir=work,
        seed=seed,
        sink=sink,
    )


def _sealed(path: Path) -> bool:
    return (path / MANIFEST).is_file()


def table(results: Sequence[Measurement]) -> str:
    """The figures as Markdown: a row per algorithm, medians over the seeds."""
    lines = [
        "| algorithm | updates | CPU seconds | delivered update | gold before | gold after | win rate vs SFT "
        "| KL (nats) | length (tokens) |",
        "|---" * 9 + "|",
    ]
    for name in dict.fromkeys(result.algorithm for result in results):
        own = [asdict(result) for result in results if result.algorithm == name]
        median = {key: statistics.median(row[key] for row in own) for key in own[0] if key != "algorithm"}
        lines.append(
            f"| {name} | {median['updates']:.0f} | {median['seconds']:.0f} | {median['best_update']:.0f} "
            f"| {median['gold_sft']:.2f} | {median['gold']:.2f} | {median['gold_win_rate']:.3f} "
            f"| {median['kl']:.2f} | {median['length']:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
