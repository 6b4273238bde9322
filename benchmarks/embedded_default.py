"""Measures what the README says of the embedded default: `python benchmarks/embedded_default.py --seeds 0 1
2`.

Every seed runs in a state folder of its own, in a process of its own, from nothing cached; then once more
for the cached run. Wall time and peak memory are the process's as the operating system counts them.
`orchestration` is ZenML, MLflow and artifact I/O: for each step the time that its own work did not take, and
what lies between the steps. A second table has it step by step.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_READ = """
import json
from ops import environment; environment.configure()
from mlflow.tracking import MlflowClient
from ops.stage import MLFLOW_RUN_ID, STAGE_SECONDS, tracking_uri
from zenml.client import Client
run = Client().list_pipeline_runs(size=1, sort_by="desc:created").items[0]
metrics = MlflowClient(tracking_uri=tracking_uri()).get_run(str(run.run_metadata[MLFLOW_RUN_ID])).data.metrics
span = lambda timed: (timed.end_time - timed.start_time).total_seconds()
steps = sorted(run.steps.values(), key=lambda step: step.start_time)
spent = {s.name: span(s) - float(s.run_metadata.get(STAGE_SECONDS, 0)) for s in steps}
spent["between the steps"] = span(run) - sum(map(span, steps))
print(json.dumps({"metrics": metrics, "orchestration": spent, "verdict": run.run_metadata.get("verdict")}))
"""


@dataclass(frozen=True)
class Measurement:
    """One seed's figures."""

    seed: int
    wall_seconds: float
    peak_gigabytes: float
    orchestration_seconds: float
    orchestration_by_step: dict[str, float]
    cached_seconds: float
    proxy_accuracy: float
    selection_accuracy: float
    judge_accuracy: float
    gold_sft: float
    gold_policy: float
    gold_gain: float
    gold_win_rate: float
    kl: float
    verdict: str


def main() -> None:
    """Run the seeds and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--config", default="support_desk")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    results = []
    for seed in arguments.seeds:
        results.append(measure(arguments.config, seed))
        print(json.dumps(asdict(results[-1])), flush=True)
    print(f"\n{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print(table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(r) for r in results], indent=1))


def measure(config: str, seed: int) -> Measurement:
    """Run a config with a seed from nothing, then again from the cache until nothing is left to compute."""
    with tempfile.TemporaryDirectory(prefix="rlhf-benchmark-") as home:
        environment = {**os.environ, "RLHF_HOME": home}
        command = [sys.executable, "-m", "ops.cli", "run", config, f"seed={seed}"]
        wall, peak = _timed(command, environment)
        read = subprocess.run(
            [sys.executable, "-c", _READ],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        figures = json.loads(read.stdout.strip().splitlines()[-1])
        # The second run evaluates against the champion that the first one made; the third is cached entirely.
        _timed(command, environment)
        cached, _ = _timed(command, environment)
    m = figures["metrics"]
    return Measurement(
        seed=seed,
        wall_seconds=wall,
        peak_gigabytes=peak,
        orchestration_seconds=sum(figures["orchestration"].values()),
        orchestration_by_step=figures["orchestration"],
        cached_seconds=cached,
        proxy_accuracy=m["eval/proxy/agreement_with_gold"],
        selection_accuracy=m["eval/selection/agreement_with_gold"],
        judge_accuracy=m["eval/judge/agreement_with_gold"],
        gold_sft=m["eval/gold/sft"],
        gold_policy=m["eval/gold/policy"],
        gold_gain=m["eval/gold/policy"] - m["eval/gold/sft"],
        gold_win_rate=m["eval/gold/win_rate_vs_sft"],
        kl=m["eval/kl"],
        verdict=str(figures["verdict"]),
    )


def _timed(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Wall seconds and peak resident gigabytes of a process."""
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return time.monotonic() - started, _gigabytes(usage)


def _gigabytes(usage: resource.struct_rusage) -> float:
    return usage.ru_maxrss / 2**20  # Linux counts in KiB


def table(results: list[Measurement]) -> str:
    """The figures as Markdown: a row per figure, a column per seed, the median last."""
    names = [name for name in asdict(results[0]) if name not in {"seed", "verdict", "orchestration_by_step"}]
    lines = ["| | " + " | ".join(f"seed {r.seed}" for r in results) + " | median |"]
    lines.append("|---" * (len(results) + 2) + "|")
    for name in names:
        values = [float(getattr(r, name)) for r in results]
        shown = " | ".join(f"{value:.2f}" for value in [*values, statistics.median(values)])
        lines.append(f"| {name.replace('_', ' ')} | {shown} |")
    lines.append("| verdict | " + " | ".join(r.verdict for r in results) + " | |")
    lines += ["", "| seconds of ZenML, MLflow and artifact I/O | " + lines[0].split("|", 2)[2].strip()]
    lines.append("|---" * (len(results) + 2) + "|")
    for step in results[0].orchestration_by_step:
        values = [r.orchestration_by_step[step] for r in results]
        shown = " | ".join(f"{value:.2f}" for value in [*values, statistics.median(values)])
        lines.append(f"| {step} | {shown} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
