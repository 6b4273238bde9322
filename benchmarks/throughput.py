"""Token throughput of our supervised stages beside TRL's trainers at their defaults, on real feedback.

Usage: ``python benchmarks/throughput.py --data FOLDER [--rows 320] [--threads 1 2] [--repeats 3]``

``FOLDER`` holds ``sft/dolly15k_train.jsonl.gz`` (databricks-dolly-15k) and
``preference/hh_harmless_base_train.jsonl.gz`` (Anthropic's hh-rlhf); a data set that is absent is left out.
Both sides train the same Llama from the same random weights on the same rows for one epoch in batches of 8,
TRL's default, in fresh processes and in alternation; TRL is told no more than that and to use the CPU.
Counted are real tokens, without padding; both sides must count as many (to 1 %: TRL tokenizes a prompt
together with its completion) and take as many steps, or the script fails. Measured is the whole stage, from
the base model's directory to the trained weights on disk, tokenizing included: its CPU seconds, those of all
threads together, which other load on the machine changes least, and its wall seconds.
"""

import argparse
import gzip
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from side_by_side import Stopwatch, machine_line, median_of, peak_bytes, run_side

BATCH = 8
VOCABULARY = 4096
MAX_LENGTH = 1024
STAGES = {
    "sft": "sft/dolly15k_train.jsonl.gz",
    "reward": "preference/hh_harmless_base_train.jsonl.gz",
}


def main() -> None:
    """Measure and print the table, or be one side of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[1].parent / "shared/data/public")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--rows", type=int, default=320)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", choices=["ours", "trl"], help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        side = {"ours": train_ours, "trl": train_trl}[args.side]
        print(json.dumps(side(args.stages[0], args.work, args.threads[0])))
        return
    from ops import environment

    environment.configure()
    with tempfile.TemporaryDirectory(prefix="throughput-") as folder:
        print("| stage, threads | tokens | TRL, CPU s | ours, CPU s | tokens per CPU s | faster by "
              "| wall s | faster by | peak GB |\n" + "|---" * 9 + "|")  # fmt: skip
        for stage in args.stages:
            if not (args.data / STAGES[stage]).exists():
                print(f"{args.data / STAGES[stage]} is absent, so {stage} is left out.", file=sys.stderr)
                continue
            work = Path(folder) / stage
            prepare(stage, args.data / STAGES[stage], args.rows, work)
            for threads in args.threads:
                print(compare(stage, work, threads, args.repeats), flush=True)
    print(f"\nMedians of {args.repeats} on {args.rows} rows; {machine_line()}.")


def compare(stage: str, work: Path, threads: int, repeats: int) -> str:
    """A row of the table.

    Raises:
        SystemExit: the sides did not train on the same tokens in the same number of steps.
    """
    runs: dict[str, list[dict[str, Any]]] = {"trl": [], "ours": []}
    for _ in range(repeats):
        for side, found in runs.items():
            arguments = ["--side", side, "--stages", stage, "--work", str(work), "--threads", str(threads)]
            found.append(run_side(sys.executable, Path(__file__).resolve(), arguments, threads=threads))
            print(json.dumps({"stage": stage, "side": side, **found[-1]}), file=sys.stderr, flush=True)
    theirs, ours = runs["trl"], runs["ours"]
    tokens = ours[0]["tokens"], theirs[0]["tokens"]
    if abs(tokens[0] - tokens[1]) > 0.01 * tokens[1] or ours[0]["steps"] != theirs[0]["steps"]:
        raise SystemExit(f"The sides of {stage} did other work: {ours[0]} against {theirs[0]}.")
    cpu, wall, peak = (
        (median_of(theirs, figure), median_of(ours, figure))
        for figure in ("cpu_seconds", "wall_seconds", "peak_bytes")
    )
    return (
        f"| {stage}, {threads} | {tokens[0]:,} | {cpu[0]:.1f} | {cpu[1]:.1f} "
        f"| {tokens[1] / cpu[0]:,.0f} → {tokens[0] / cpu[1]:,.0f} | **{cpu[0] / cpu[1]:.2f}×** "
        f"| {wall[0]:.1f} → {wall[1]:.1f} | **{wall[0] / wall[1]:.2f}×** "
        f"| {peak[0] / 1e9:.2f} → {peak[1] / 1e9:.2f} |"
    )


def prepare(stage: str, source: Path, rows: int, work: Path) -> None:
    """Write the rows, and a base model with a tokenizer trained on them."""
    import torch
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM

    from rlhf.models.tokenizer import train_tokenizer

    reader = {"sft": dolly, "reward": hh_pairs}[stage]
    taken = [row for row, _ in zip(reader(source), range(4 * rows), strict=False)]
    texts = [text for row in taken for text in row.values()]
    tokenizer = train_tokenizer(texts, vocabulary_size=VOCABULARY, max_length=MAX_LENGTH)

    def fits(row: dict[str, str]) -> bool:
        # TRL's two trainers cut or drop what is too long, ours as well, but not alike
        sides = [text for name, text in row.items() if name != "prompt"]
        return all(len(tokenizer(row["prompt"] + side)["input_ids"]) < MAX_LENGTH - 8 for side in sides)

    kept = [row for row in taken if fits(row)][:rows]
    (work / "rows").mkdir(parents=True)
    Dataset.from_list(kept).to_json(work / "rows" / "train.jsonl")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=768, num_hidden_layers=6,
        num_attention_heads=4, max_position_embeddings=MAX_LENGTH, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(work / "base")
    tokenizer.save_pretrained(work / "base")


def dolly(path: Path) -> Iterator[dict[str, str]]:
    """Dolly's rows as prompt and completion."""
    for row in _json_lines(path):
        parts = [row["instruction"], row["context"]]
        yield {"prompt": "\n\n".join(p for p in parts if p) + "\n\n", "completion": row["response"]}


def hh_pairs(path: Path) -> Iterator[dict[str, str]]:
    """hh-rlhf's rows as prompt, chosen and rejected."""
    turn = "\n\nAssistant:"
    for row in _json_lines(path):
        (prompt, chosen), (other, rejected) = (
            (text[: text.rfind(turn) + len(turn)], text[text.rfind(turn) + len(turn) :])
            for text in (row["chosen"], row["rejected"])
        )
        if prompt == other and chosen.strip() and rejected.strip():
            yield {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _json_lines(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def train_trl(stage: str, work: Path, threads: int) -> dict[str, Any]:
    """TRL's trainer for the stage, at its defaults."""
    import torch
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

    torch.set_num_threads(threads)
    rows = Dataset.from_json(str(work / "rows" / "train.jsonl"))
    with tempfile.TemporaryDirectory() as output, Stopwatch() as watch:
        common: dict[str, Any] = {
            "output_dir": output, "num_train_epochs": 1, "per_device_train_batch_size": BATCH,
            "use_cpu": True, "report_to": [], "save_strategy": "no", "disable_tqdm": True,
        }  # fmt: skip
        trainer: Any
        if stage == "sft":
            trainer = SFTTrainer(str(work / "base"), SFTConfig(**common), train_dataset=rows)
        else:
            trainer = RewardTrainer(str(work / "base"), RewardConfig(**common), train_dataset=rows)
        outcome = trainer.train()
        trainer.save_model(output)
    return {
        "wall_seconds": watch.wall_seconds,
        "cpu_seconds": watch.cpu_seconds,
        "tokens": int(trainer._total_train_tokens),
        "steps": int(outcome.global_step),
        "peak_bytes": peak_bytes(),
    }


def train_ours(stage: str, work: Path, threads: int) -> dict[str, Any]:
    """Our stage at its defaults, but for TRL's batch size."""
    import torch
    from datasets import Dataset, DatasetDict

    from rlhf.training.reward_model import train_reward_model
    from rlhf.training.settings import RewardModelSettings, SFTSettings
    from rlhf.training.sft import train_sft

    torch.set_num_threads(threads)
    rows = DatasetDict({"train": Dataset.from_json(str(work / "rows" / "train.jsonl"))})
    train: Callable[..., Any] = train_sft if stage == "sft" else train_reward_model
    settings = (SFTSettings if stage == "sft" else RewardModelSettings)(batch_size=BATCH, threads=threads)
    with tempfile.TemporaryDirectory() as output, Stopwatch() as watch:
        directory = train(work / "base", rows, settings, Path(output) / "model")
        metrics = directory.metrics
    return {
        "wall_seconds": watch.wall_seconds,
        "cpu_seconds": watch.cpu_seconds,
        "tokens": round(metrics["train/tokens_per_second"] * metrics["train/seconds"]),
        "steps": int(metrics["train/steps"]),
        "peak_bytes": peak_bytes(),
    }


if __name__ == "__main__":
    main()
