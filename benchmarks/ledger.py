"""Measures ingest into the feedback ledger: `python benchmarks/ledger.py --rows 1000000 2000000`.

For each size: a JSON Lines file in the annotation-rows layout (about a kilobyte a row) into an empty ledger,
the same file again, and the file with three percent of its rows edited or added. Every ingest runs in a
process of its own; wall time, processor time and peak memory are the process's as the operating system counts
them. The counts that each ingest reports are checked, so that all did the whole work.
"""

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_POOL = 5000
_CHANGED_SHARE = 0.03


@dataclass(frozen=True)
class Measurement:
    """One ingest."""

    what: str
    rows: int
    wall_seconds: float
    cpu_seconds: float
    peak_megabytes: float
    new: int
    edited: int
    live: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 2_000_000])
    parser.add_argument("--folder", type=Path, help="where files and ledgers go; by default in /tmp")
    parser.add_argument("--measure", nargs=3, metavar=("WHAT", "FILE", "LEDGER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure)
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print("| rows | ingest | wall s | CPU s | peak MB |")
    print("|---|---|---|---|---|")
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            file, ledger = Path(folder) / "feedback.jsonl", Path(folder) / "ledger"
            write(file, rows)
            first = in_process("first", file, ledger)
            assert (first.new, first.live) == (rows, rows), first
            again = in_process("unchanged", file, ledger)
            assert (again.new, again.edited, again.live) == (0, 0, rows), again
            changed = round(rows * _CHANGED_SHARE / 2)
            write(file, rows + changed, edited=changed)
            last = in_process("3 % changed", file, ledger)
            assert (last.new, last.edited, last.live) == (changed, changed, rows + changed), last
        for m in (first, again, last):
            print(
                f"| {m.rows:,} | {m.what} | {m.wall_seconds:.1f} | {m.cpu_seconds:.1f} "
                f"| {m.peak_megabytes:.0f} |",
                flush=True,
            )


def write(file: Path, rows: int, edited: int = 0) -> None:
    """Comparisons by three annotators; the first ``edited`` ones are decided the other way."""
    rng = random.Random(0)
    words = [f"word{n}" for n in range(2000)]
    pool = [" ".join(rng.choices(words, k=30)) for _ in range(_POOL)]
    with file.open("w", encoding="utf-8") as stream:
        for n in range(rows):
            one = rng.randrange(_POOL)
            row = {
                "record_id": f"record-{n // 3:08d}",
                "prompt": [{"role": "user", "content": rng.choice(pool)}],
                "responses": [pool[one], pool[one - 1]],
                "kind": "comparison",
                "value": int(n < edited),
                "question": "Which is better?",
                "annotator": f"annotator-{n % 3}",
                "updated_at": "2026-01-05T09:00:00",
            }
            stream.write(json.dumps(row) + "\n")


def in_process(what: str, file: Path, ledger: Path) -> Measurement:
    """Measure one ingest in a fresh interpreter."""
    command = [sys.executable, __file__, "--measure", what, str(file), str(ledger)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def measure(what: str, file: str, ledger: str) -> None:
    """One ingest in this process, printed as JSON."""
    from rlhf.feedback.ledger.ingest import ingest_into_ledger
    from rlhf.feedback.settings import FeedbackSettings

    settings = FeedbackSettings.model_validate(
        {"sources": [{"type": "file", "path": file}], "ledger": {"url": ledger}}
    )
    started = time.monotonic()
    [change] = ingest_into_ledger(settings).changes
    wall = time.monotonic() - started
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
    counts = (change.new, change.edited, change.live)
    print(json.dumps(asdict(Measurement(what, change.live, wall, cpu, peak, *counts))))


if __name__ == "__main__":
    main()
