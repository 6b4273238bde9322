"""Seconds per PPO update by phase, on random weights: the machine's speed, not learning, is measured.

Usage: ``python benchmarks/ppo_speed.py [--hidden 128] [--critic shared] [--precision bf16] ...``

Prompts and completions are as long as the support-desk sample's. A random policy hardly ever draws EOS, so
nearly all completions run to their full length: the figures are upper bounds.
"""

import argparse
import random
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from rlhf.models.chat import Prompt
from rlhf.models.reward_classifiers import RewardModelReward
from rlhf.models.settings_generation import GenerationSettings
from rlhf.tracking import RecordingSink
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.ppo.trainer import train_ppo


def word_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """One token per whitespace-separated word ``w3``, ``w4``, ..."""
    words = ["<pad>", "<s>", "</s>", *[f"w{i}" for i in range(3, size)]]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def main() -> None:
    """Run a few updates and print the mean seconds of each phase, the first update left out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in {
        "hidden": 128, "layers": 4, "ffn": 352, "heads": 4, "vocabulary": 1024, "prompt": 32, "response": 45,
        "rollouts": 64, "epochs": 4, "mini-batches": 1, "micro-batch-tokens": 8192, "updates": 4,
        "threads": 1,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--critic", choices=["separate", "shared"], default="separate")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        measure(args, Path(folder))


def measure(args: argparse.Namespace, folder: Path) -> None:
    """Build random networks in ``folder``, train, and print."""
    tokenizer = word_tokenizer(args.vocabulary)
    config = LlamaConfig(
        vocab_size=args.vocabulary, hidden_size=args.hidden, intermediate_size=args.ffn, pad_token_id=0,
        num_hidden_layers=args.layers, num_attention_heads=args.heads, num_key_value_heads=args.heads,
        max_position_embeddings=512, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True, num_labels=1,
    )  # fmt: skip
    torch.manual_seed(0)
    policy, reward_model = LlamaForCausalLM(config), LlamaForSequenceClassification(config)
    for name, model in (("policy", policy), ("reward", reward_model)):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    draw = random.Random(0)
    prompts: Sequence[Prompt] = [
        " ".join(f"w{draw.randrange(3, args.vocabulary)}" for _ in range(args.prompt - i % 8))
        for i in range(512)
    ]
    sink = RecordingSink()
    train_ppo(
        folder / "policy",
        RewardModelReward(folder / "reward"),
        prompts,
        PPOSettings(
            updates=args.updates,
            rollout_batch_size=args.rollouts,
            epochs=args.epochs,
            mini_batches=args.mini_batches,
            micro_batch_tokens=args.micro_batch_tokens,
            generation=GenerationSettings(max_new_tokens=args.response),
            critic=args.critic,
            precision=args.precision,
            checkpoint_every=10_000,
        ),
        output_dir=folder / "out",
        critic=folder / "reward" if args.critic == "separate" else None,
        sink=sink,
    )
    phases: dict[str, float] = defaultdict(float)
    for name, points in sink.curves.items():
        if name.startswith("ppo/seconds_"):
            phases[name.removeprefix("ppo/seconds_")] = sum(v for _, v in points[1:]) / (len(points) - 1)
    print(f"{policy.num_parameters() / 1e6:.2f} M parameters, {args}")
    print("  ".join(f"{name} {seconds:.3f} s" for name, seconds in phases.items()))
    print(f"update {sum(phases.values()):.3f} s, {sink.curves['ppo/tokens_per_second'][-1][1]:.0f} tokens/s")


if __name__ == "__main__":
    main()
