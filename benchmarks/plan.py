"""Measures how far a forecast is from what a run takes: `python benchmarks/plan.py --runs 5`.

In a state folder of its own: a plan from a calibration, then the full run from nothing cached; then a plan
from that run and the run again with nothing cached. Aim on the embedded default: memory within 15 %, time
within 30 % (median, on an idle machine).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Print a Markdown table of relative errors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="support_desk")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--compare", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    if arguments.compare:
        print(_compared())
        return
    errors: dict[str, list[tuple[float, float]]] = {"calibration": [], "earlier run": []}
    for _ in range(arguments.runs):
        with tempfile.TemporaryDirectory(prefix="rlhf-plan-") as home:
            asked = [arguments.config, *arguments.overrides]
            for basis, options in (("calibration", ["--calibrate"]), ("earlier run", [])):
                again = ["enable_cache=false"]
                _rlhf(home, "plan", *options, *asked, *again)
                _rlhf(home, "run", *asked, *again)
                read = _python(home, "benchmarks/plan.py", "--compare")
                errors[basis].append(_errors(json.loads(read.splitlines()[-1])))
                print(basis, *(f"{error:+.1%}" for error in errors[basis][-1]), flush=True)
    print("| forecast from | time, median error | memory, median error |\n|---|---|---|")
    for basis, pairs in errors.items():
        time, memory = (statistics.median(pair[n] for pair in pairs) for n in (0, 1))
        print(f"| {basis} | {time:+.1%} | {memory:+.1%} |")


def _errors(compared: dict[str, dict[str, float]]) -> tuple[float, float]:
    """Relative errors of the time of all steps, and of the peak."""
    steps = [s for s in compared.values() if "forecast_seconds" in s]
    time = sum(s["forecast_seconds"] for s in steps) / sum(s["actual_seconds"] for s in steps) - 1
    peaks = [s for s in compared.values() if "forecast_peak_bytes" in s]
    memory = max(s["forecast_peak_bytes"] for s in peaks) / max(s["actual_peak_bytes"] for s in peaks) - 1
    return time, memory


def _compared() -> str:
    """Forecast and actual of the newest run in this process's state folder."""
    from ops import environment

    environment.configure()
    from zenml.client import Client

    from ops.plan import FORECAST

    run = Client().list_pipeline_runs(size=1, sort_by="desc:created").items[0]
    return str(run.run_metadata[FORECAST])


def _rlhf(home: str, *arguments: str) -> None:
    _python(home, "-m", "ops.cli", *arguments)


def _python(home: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "RLHF_HOME": home, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr[-1500:] or done.stdout[-1500:]
        raise SystemExit(f"{' '.join(arguments[:4])} ended with {done.returncode}: {said}")
    return done.stdout


if __name__ == "__main__":
    main()
