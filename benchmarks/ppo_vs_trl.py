"""One PPO update of ours beside one of TRL's last ``PPOTrainer``, on identical work.

Usage: ``python benchmarks/ppo_vs_trl.py [--repeats 3] [--rows NAME ...] [--quick] [--venv PATH]``

Both sides start from the same weights on disk and answer the same 64 prompts of 32 to 64 tokens. Completions
are as long on both sides: a length is drawn for every prompt (geometric with p = 1/40, at most 96), or is 96
for all; EOS is forbidden before it and forced there. One mini-batch, as many epochs, micro-batches of 8 rows
(TRL) or of as many padded tokens (ours), learning rate 1e-5, one thread, a fresh process for each
measurement, in alternation. Measured is one whole update: sampling, reward, log-probabilities, advantages,
optimizer steps; neither start-up nor loading. An update takes many seconds, so none is spent on warming up.

Tokens sampled, tokens trained on and optimizer steps that were taken must agree, or the script fails. The
first three rows do the same arithmetic as TRL; the two below do not (bfloat16, one trunk for two models) and
stand apart.
"""

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ppo_speed import word_tokenizer
from side_by_side import machine_line, median_of, run_side, trl_python
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

HERE = Path(__file__).resolve().parent
SAME_WORK = ("response_tokens", "trained_tokens", "optimizer_steps")


@dataclass(frozen=True)
class Workload:
    """What both sides do."""

    vocabulary: int = 8192
    variable: bool = True
    """Completions of different lengths."""
    epochs: int = 4
    hidden: int = 384
    ffn: int = 1024
    layers: int = 6
    rollouts: int = 64
    response: int = 96
    mean_response: int = 40
    """Of variable lengths, before they are cut at ``response``."""


@dataclass(frozen=True)
class Row:
    """A row of the table: our settings on a workload, against TRL on the same."""

    workload: str
    label: str
    ours: dict[str, str]


WORKLOADS = {
    "variable": Workload(),
    "fixed": Workload(variable=False),
    "vocabulary": Workload(vocabulary=50_000, variable=False, epochs=1),
}
ROWS = {
    "variable": Row("variable", "fp32, variable length, 4 epochs", {"precision": "fp32"}),
    "fixed": Row("fixed", "fp32, fixed length, 4 epochs", {"precision": "fp32"}),
    "vocabulary": Row("vocabulary", "fp32, V = 50,000, fixed length, 1 epoch", {"precision": "fp32"}),
    "bf16": Row("variable", "bf16, variable length, 4 epochs", {"precision": "bf16"}),
    "shared": Row(
        "variable", "bf16 and shared trunk, variable length, 4 epochs",
        {"precision": "bf16", "critic": "shared"},
    ),
}  # fmt: skip


def main() -> None:
    """Measure the chosen rows and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a tiny model and short completions")
    parser.add_argument("--venv", type=Path, help="environment with TRL's last PPO (built if absent)")
    parser.add_argument("--json", type=Path, help="also write every run's figures here")
    args = parser.parse_args()
    from ops import environment

    environment.configure()
    python = trl_python(args.venv)
    runs: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="ppo-vs-trl-") as folder:
        for name in dict.fromkeys(ROWS[row].workload for row in args.rows):
            workload = quickened(WORKLOADS[name]) if args.quick else WORKLOADS[name]
            rows = [row for row in args.rows if ROWS[row].workload == name]
            for key, found in measure(workload, rows, Path(folder) / name, python, args.repeats).items():
                runs[f"trl {name}" if key == "trl" else key] = found
    if args.json:
        args.json.write_text(json.dumps(runs, indent=1))
    print(table(args.rows, runs))
    print(f"\nMedians of {args.repeats}; {machine_line()}; the other side TRL 1.11.0.")


def quickened(workload: Workload) -> Workload:
    """The same in small, to see that everything runs."""
    return replace(workload, hidden=64, ffn=128, layers=2, rollouts=16, response=16, mean_response=6)


def measure(
    workload: Workload, rows: Sequence[str], folder: Path, python: Path, repeats: int
) -> dict[str, list[dict[str, Any]]]:
    """Figures of each repeat for ``trl`` and every row, in alternation.

    Raises:
        SystemExit: the sides did not do the same work.
    """
    task = write_task(workload, folder)
    runs: dict[str, list[dict[str, Any]]] = {"trl": [], **{row: [] for row in rows}}
    for repeat in range(repeats):
        for side in runs:
            spec = {**task, "output": str(folder / f"{side}-{repeat}")}
            if side != "trl":
                spec["ours"] = ROWS[side].ours
            path = folder / f"{side}-{repeat}.json"
            path.write_text(json.dumps(spec))
            if side == "trl":
                found = run_side(python, HERE / "trl_ppo_side.py", [str(path)], ours=False)
            else:
                found = run_side(sys.executable, HERE / "our_ppo_side.py", [str(path)])
            runs[side].append(found)
            print(json.dumps({"side": side, **found}), file=sys.stderr, flush=True)
            work, expected = ({k: r[k] for k in SAME_WORK} for r in (found, runs["trl"][0]))
            if work != expected:
                raise SystemExit(f"{side} did other work than TRL: {work} against {expected}.")
    return runs


def write_task(workload: Workload, folder: Path) -> dict[str, Any]:
    """Write the models; the task as both sides read it."""
    tokenizer = word_tokenizer(workload.vocabulary)
    config = LlamaConfig(
        vocab_size=workload.vocabulary, hidden_size=workload.hidden, intermediate_size=workload.ffn,
        num_hidden_layers=workload.layers, num_attention_heads=max(1, workload.hidden // 64),
        max_position_embeddings=1024, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        tie_word_embeddings=False, num_labels=1,
    )  # fmt: skip
    torch.manual_seed(0)
    for name, kind in (
        ("policy", LlamaForCausalLM),
        ("critic", LlamaForSequenceClassification),
        ("reward", LlamaForSequenceClassification),
    ):
        kind(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    draw = random.Random(0)
    prompts = [
        [draw.randrange(3, workload.vocabulary) for _ in range(draw.randint(32, 64))]
        for _ in range(workload.rollouts)
    ]
    lengths = np.full(workload.rollouts, workload.response)
    if workload.variable:
        drawn = np.random.default_rng(0).geometric(1 / workload.mean_response, workload.rollouts)
        lengths = np.minimum(drawn, workload.response)
    return {
        **{name: str(folder / name) for name in ("policy", "critic", "reward")},
        "prompts": prompts,
        "lengths": lengths.tolist(),
        "response_length": workload.response,
        "epochs": workload.epochs,
        "mini_batches": 1,
        "micro_batch_rows": 8,
        "learning_rate": 1e-5,
        "kl_coefficient": 0.05,
        "updates": 1,
        "seed": 0,
        "workload": asdict(workload),
    }


def table(rows: Sequence[str], runs: dict[str, list[dict[str, Any]]]) -> str:
    """The medians as Markdown."""
    lines = [
        "| one update | TRL 1.11, CPU s | ours, CPU s | faster by | wall s | peak GB | memory ratio "
        "| tokens sampled / trained on / steps |",
        "|---" * 8 + "|",
    ]
    for name in rows:
        theirs, ours = runs[f"trl {ROWS[name].workload}"], runs[name]
        cpu, wall, peak = (
            (median_of(theirs, figure), median_of(ours, figure))
            for figure in ("cpu_seconds", "wall_seconds", "peak_bytes")
        )
        work = " / ".join(f"{ours[0][figure]:,}" for figure in SAME_WORK)
        lines.append(
            f"| {ROWS[name].label} | {cpu[0]:.1f} | {cpu[1]:.1f} | **{cpu[0] / cpu[1]:.2f}×** "
            f"| {wall[0]:.1f} → {wall[1]:.1f} | {peak[0] / 1e9:.2f} → {peak[1] / 1e9:.2f} "
            f"| {peak[1] / peak[0]:.2f} | {work} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
