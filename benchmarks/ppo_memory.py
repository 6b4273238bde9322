"""What each memory lever of PPO saves and costs: peak memory and seconds of an update, on random weights.

Usage: ``python benchmarks/ppo_memory.py [--hidden 384] [--layers 6] [--response 128] ...``

Each row is a process of its own, one after another, with the same prompts, seeds and lengths: a random policy
hardly ever draws EOS. Where a row is of two processes, memory is that of the one that needs more and time
that of one. Memory is what a run adds to the process that has loaded the libraries (Linux: peak
resident set; on a GPU: peak of PyTorch's allocator). The reward is a function of the text and weighs
nothing. Time is the CPU's over one whole update, which a busy machine hardly changes (on a GPU it means
nothing).
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from ppo_speed import word_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from rlhf.models.chat import Prompt
from rlhf.tracking import NullSink
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.ppo.trainer import train_ppo
from rlhf.training.processes import joined_processes

LORA = {"lora": {"rank": 16, "alpha": 32}}
CUT = {"micro_batches": 4}
PAIR = {"processes": 2, "micro_batches": 4}
RECOMPUTE = {"gradient_checkpointing": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "full, separate critic, one micro-batch": {},
    "full, separate critic, recomputed": RECOMPUTE,
    "full, separate critic, 4 micro-batches": CUT,
    "full, separate critic, 4, recomputed": {**CUT, **RECOMPUTE},
    "full, shared critic, 4 micro-batches": {"critic": "shared", **CUT},
    "full, separate critic, 2 processes": PAIR,
    "full, separate critic, 2 processes, fsdp": {**PAIR, "sharding": "fsdp"},
    "LoRA, critic from a reward model, 4": {**CUT, **LORA},
    "LoRA, critic from the policy, 4": {"from_policy": True, **CUT, **LORA},
    "LoRA, shared critic, 4": {"critic": "shared", **CUT, **LORA},
    "LoRA, shared critic, 4, recomputed": {"critic": "shared", **CUT, **RECOMPUTE, **LORA},
}


def main() -> None:
    """Run every variant and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in {
        "hidden": 384, "layers": 6, "ffn": 1024, "heads": 6, "vocabulary": 8192, "prompt": 32,
        "response": 128, "rollouts": 4, "epochs": 1, "updates": 3, "threads": 1,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    variants = dict(VARIANTS)
    if torch.cuda.is_available():
        variants["full, separate critic, 4, 8-bit AdamW"] = {"optimizer": "adamw_8bit", **CUT}
    with tempfile.TemporaryDirectory() as folder:
        millions = _models(args, Path(folder))
        print(f"{millions:.1f} M parameters, {vars(args)}")
        print(f"{'':40} {'MB':>6} {'CPU s':>9} {'checkpoint MB':>14}")
        for name, changes in variants.items():
            if torch.cuda.is_available() and changes.get("processes", 1) > torch.cuda.device_count():
                continue
            figures = measure_on_processes(args, Path(folder), changes)
            print("{:40} {:6.0f} {:9.2f} {:14.1f}".format(name, *figures), flush=True)


class Clock(NullSink):
    """CPU seconds of this process at the end of each update."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def progress(self, done: int, total: int, note: str = "") -> None:
        """Read the clock."""
        self.ends.append(time.process_time())


def measure_on_processes(
    args: argparse.Namespace, folder: Path, changes: dict[str, Any]
) -> tuple[float, float, float]:
    """The figures of the process that needs most, of as many fresh ones as the variant says."""
    count = changes.get("processes", 1)
    with (
        tempfile.TemporaryDirectory() as out,
        ProcessPoolExecutor(count, mp_context=get_context("spawn")) as processes,
    ):
        place = {"WORLD_SIZE": str(count)}
        found = [
            processes.submit(
                measure,
                args,
                folder,
                changes,
                Path(out),
                {**place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(count)
        ]
        peaks, seconds, sizes = zip(*(f.result() for f in found), strict=True)
    return max(peaks), max(seconds), max(sizes)


def measure(
    args: argparse.Namespace, folder: Path, changes: dict[str, Any], out: Path, place: dict[str, str]
) -> tuple[float, float, float]:
    """Train, and return peak memory (MB), CPU seconds of the second update, and a checkpoint's size (MB)."""
    os.environ.update(place)
    torch.set_num_threads(args.threads)
    changes = dict(changes)
    from_policy = changes.pop("from_policy", False) or changes.get("critic") == "shared"
    tokens = args.rollouts * (args.prompt + args.response) // changes.pop("micro_batches", 1)
    settings = PPOSettings.model_validate(
        {
            "updates": args.updates,
            "rollout_batch_size": args.rollouts,
            "epochs": args.epochs,
            "micro_batch_tokens": tokens,
            "generation": {"max_new_tokens": args.response},
            "precision": "fp32",
            "checkpoint_every": args.updates,
            **changes,
        }
    )
    prompts: Sequence[Prompt] = [
        " ".join(f"w{3 + (7 * i + j) % (args.vocabulary - 3)}" for j in range(args.prompt)) for i in range(64)
    ]
    clock = Clock()
    before = _resident()
    with joined_processes(rendezvous=out / "rendezvous"):
        train_ppo(
            folder / "policy",
            lambda _, completions: [-float(len(c)) for c in completions],
            prompts,
            settings,
            output_dir=out / "run",
            critic=None if from_policy else folder / "reward",
            sink=clock,
        )
    peak = _peak() - before
    size = sum(f.stat().st_size for f in out.glob("run/checkpoints/update-*/*"))
    seconds = clock.ends[1] - clock.ends[0] if clock.ends else 0.0  # of process 0, which reports for all
    return peak, seconds, size / 1e6


def _models(args: argparse.Namespace, folder: Path) -> float:
    """Write a policy and a reward model of random weights; returns the policy's size in millions."""
    config = LlamaConfig(
        vocab_size=args.vocabulary, hidden_size=args.hidden, intermediate_size=args.ffn, pad_token_id=0,
        num_hidden_layers=args.layers, num_attention_heads=args.heads, num_key_value_heads=args.heads,
        max_position_embeddings=1024, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True, num_labels=1,
    )  # fmt: skip
    torch.manual_seed(0)
    policy = LlamaForCausalLM(config)
    policy.save_pretrained(folder / "policy")
    LlamaForSequenceClassification(config).save_pretrained(folder / "reward")
    for name in ("policy", "reward"):
        word_tokenizer(args.vocabulary).save_pretrained(folder / name)
    return policy.num_parameters() / 1e6


def _resident() -> float:
    if torch.cuda.is_available():
        return 0.0
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def _peak() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()
