"""Where a PPO update's time goes on an accelerator: achieved FLOP/s of each phase beside the machine's own.

Usage: ``python benchmarks/ppo_gpu.py [--hidden 1024 --layers 24 ...]``; on a machine without a GPU, with
small sizes, it measures the CPU.

Random weights, bf16, completions of full length. A phase's floating-point operations are those of its matrix
products, two for each multiplication with its addition. One forward pass over sequences of L tokens, of which
R are completion tokens, through n layers of width d (h key-value heads for every H), inner width f, V tokens
of vocabulary:

    sum over sequences of  n * (2 * (2 + 2 h/H) d^2 + 6 d f) * L  +  n * 2 d L (L + 1)  +  2 d V R

(projections and feed-forward; scores and mixing of causal attention; the head, at completion tokens only).
``generate`` is one pass of the policy, ``score`` one of the reward model without the head, ``advantages`` one
of policy, reference and critic, ``learn`` three (forward, and a backward of two) of policy and critic for
each epoch. They are set against the rate of one large bf16 matrix product, measured in the same run. Decoding
reads all weights for every token of a batch, so ``generate`` is bound by memory rather than by that rate.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from ppo_speed import word_tokenizer
from side_by_side import machine_line
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from rlhf.models.rewards import RewardModelReward
from rlhf.models.settings_generation import GenerationSettings
from rlhf.tracking import NullSink
from rlhf.training.ppo.rollout import Rollouts
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.ppo.trainer import PPOTrainer

PHASES = ("generate", "score", "advantages", "learn")


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in {
        "hidden": 1024, "layers": 24, "ffn": 2816, "heads": 16, "kv-heads": 8, "vocabulary": 32_000,
        "prompt": 128, "response": 512, "rollouts": 128, "generation-batch-size": 128, "epochs": 4,
        "mini-batches": 1, "micro-batch-tokens": 32_768, "updates": 3, "matmul": 8192,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--critic", choices=["separate", "shared"], default="separate")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peak = matmul_rate(args.matmul, device)
    with tempfile.TemporaryDirectory(prefix="ppo-gpu-") as folder:
        measure(args, Path(folder), device, peak)


def matmul_rate(size: int, device: torch.device) -> float:
    """FLOP/s of a bf16 product of two square matrices, the best of several."""
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = [timed(lambda: left @ right, device)[0] for _ in range(10)]
    return float(2 * size**3 / min(seconds))


def timed(act: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Wall seconds of a call, the device's queue emptied on both sides, and its result."""
    synchronize(device)
    start = time.perf_counter()
    result = act()
    synchronize(device)
    return time.perf_counter() - start, result


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(args: argparse.Namespace, folder: Path, device: torch.device, peak: float) -> None:
    """Train a few updates of random networks in ``folder``; the first warms up and is left out."""
    config = LlamaConfig(
        vocab_size=args.vocabulary, hidden_size=args.hidden, intermediate_size=args.ffn,
        num_hidden_layers=args.layers, num_attention_heads=args.heads, num_key_value_heads=args.kv_heads,
        max_position_embeddings=args.prompt + args.response, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        tie_word_embeddings=True, num_labels=1,
    )  # fmt: skip
    tokenizer = word_tokenizer(args.vocabulary)
    torch.manual_seed(0)
    parameters = 0
    for name, kind in (("policy", LlamaForCausalLM), ("reward", LlamaForSequenceClassification)):
        model = kind(config)
        parameters = parameters or model.num_parameters()
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        del model
    draw = random.Random(0)
    trainer = PPOTrainer(
        folder / "policy",
        RewardModelReward(folder / "reward", token_budget=args.micro_batch_tokens),
        [
            " ".join(f"w{draw.randrange(3, args.vocabulary)}" for _ in range(args.prompt))
            for _ in range(args.rollouts)
        ],
        PPOSettings(
            updates=args.updates,
            rollout_batch_size=args.rollouts,
            epochs=args.epochs,
            mini_batches=args.mini_batches,
            micro_batch_tokens=args.micro_batch_tokens,
            generation=GenerationSettings(max_new_tokens=args.response),
            generation_batch_size=args.generation_batch_size,
            critic=args.critic,
            precision="bf16",
        ),
        output_dir=folder / "out",
        critic=folder / "reward" if args.critic == "separate" else None,
        sink=NullSink(),
    )
    seconds: dict[str, list[float]] = {phase: [] for phase in PHASES}
    work: list[dict[str, float]] = []
    for _ in range(args.updates):
        trainer.update += 1
        took, rollouts = timed(trainer.generate, device)
        seconds["generate"].append(took)
        took, scores = timed(lambda: trainer.score(rollouts), device)  # noqa: B023 - called at once
        seconds["score"].append(took)
        took, experience = timed(lambda: trainer.advantages(rollouts, scores), device)  # noqa: B023
        seconds["advantages"].append(took)
        took, _ = timed(lambda: trainer.learn(rollouts, experience), device)  # noqa: B023
        seconds["learn"].append(took)
        work.append(phase_flops(config, rollouts, args.epochs, separate=args.critic == "separate"))
    print(table(seconds, work, peak))
    memory = f", peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if device.type == "cuda" else ""
    card = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(
        f"\n{parameters / 1e6:.1f} M parameters, {args.rollouts} completions of up to {args.response} "
        f"tokens, {args.epochs} epochs, critic {args.critic}, bf16{memory}; {card} measured at "
        f"{peak / 1e12:.2f} TFLOP/s (bf16 product of {args.matmul}²); {machine_line()}."
    )


def forward_flops(config: LlamaConfig, pairs: Sequence[tuple[int, int]], *, head: bool) -> float:
    """Operations of a forward pass over (prompt, completion) lengths; the formula is in the file's first
    lines."""
    width, layers = config.hidden_size, config.num_hidden_layers
    shared = config.num_key_value_heads / config.num_attention_heads
    per_token = 2 * (2 + 2 * shared) * width**2 + 6 * width * config.intermediate_size
    total = 0.0
    for prompt, completion in pairs:
        length = prompt + completion
        total += layers * (per_token * length + 2 * width * length * (length + 1))
        if head:
            total += 2 * width * config.vocab_size * completion
    return total


def phase_flops(config: LlamaConfig, rollouts: Rollouts, epochs: int, *, separate: bool) -> dict[str, float]:
    """Operations of each phase of an update."""
    pairs = [(len(prompt), len(completion)) for prompt, completion in rollouts.pairs]
    policy = forward_flops(config, pairs, head=True)
    trunk = forward_flops(config, pairs, head=False)
    critic = trunk if separate else 0.0
    return {
        "generate": policy,
        "score": trunk,
        "advantages": 2 * policy + critic,
        "learn": 3 * epochs * (policy + critic),
    }


def table(seconds: dict[str, list[float]], work: Sequence[dict[str, float]], peak: float) -> str:
    """Medians after the first update as Markdown, and the phase that is furthest from the measured rate."""
    kept = slice(1, None) if len(work) > 1 else slice(None)
    lines = ["| phase | seconds | share | TFLOP | TFLOP/s | of the measured rate |", "|---" * 6 + "|"]
    medians = {phase: statistics.median(seconds[phase][kept]) for phase in PHASES}
    whole, fractions = sum(medians.values()), {}
    for phase in PHASES:
        done = statistics.median(w[phase] for w in work[kept])
        rate = done / medians[phase]
        fractions[phase] = rate / peak
        lines.append(
            f"| {phase} | {medians[phase]:.3f} | {medians[phase] / whole:.0%} | {done / 1e12:.3f} "
            f"| {rate / 1e12:.3f} | {fractions[phase]:.1%} |"
        )
    lines.append(f"| update | {whole:.3f} | 100% | | | |")
    furthest = min(fractions, key=lambda phase: fractions[phase])
    costliest = max(medians, key=lambda phase: medians[phase] * (1 - min(1.0, fractions[phase])))
    lines.append(
        f"\nFurthest from the measured rate: {furthest} ({fractions[furthest]:.1%}). Most seconds above what "
        f"that rate would take: {costliest}."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
