"""Random walks: does PPO find shortest paths in a graph after seeing only random ones? Optimality is exact.

The task is that of Chen et al. 2021 (Decision Transformer, arXiv:2106.01345) as trlX popularised it: a
directed graph of 21 nodes with one absorbing goal; a prompt is a start node, a completion the walk to it.
A small Llama is first trained on random walks (supervised), then by PPO with their optimality as reward.

Measured on one core of an AVX512 machine, optimality of 260 sampled walks (seeds 0, 1, 2):
supervised 0.30, 0.24, 0.44; 10 updates 0.93, 0.98, 0.98; 30 updates 0.994, 0.994, 0.992; 8 CPU seconds each.

Usage: ``python benchmarks/random_walks.py [--seeds 3] [--updates 30] [--trl [--venv PATH]]``. One thread, no
download of data. ``--trl`` puts TRL's last ``PPOTrainer`` beside ours: same start, rewards, rollouts, epochs
and mini-batches, in alternation and in fresh processes, measured by the mean optimality of each update's own
rollouts.
"""

import argparse
import json
import string
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from rlhf.models.chat import Prompt
from rlhf.models.length_buckets import right_padded
from rlhf.models.settings_generation import GenerationSettings
from rlhf.tracking import NullSink
from rlhf.training.ppo.result import PPOResult
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.ppo.trainer import PPOTrainer, train_ppo

NODES = 21
LONGEST_WALK = 10
LETTERS = string.ascii_lowercase[:NODES]
GOAL = 0
LEARNT = 0.9
"""Optimality that counts as learnt where the time to it is measured."""


@dataclass(frozen=True)
class Graph:
    """A directed graph whose goal can be reached from everywhere within ``LONGEST_WALK`` nodes."""

    edges: np.ndarray
    """[nodes, nodes] bool."""
    shortest: tuple[int, ...]
    """Nodes on the shortest walk from each node to the goal, both ends counted."""

    @classmethod
    def random(cls, seed: int, edge_probability: float = 0.1) -> "Graph":
        """Draw graphs until one has a way to the goal from every node."""
        draw = np.random.default_rng(seed)
        while True:
            edges = draw.random((NODES, NODES)) < edge_probability
            np.fill_diagonal(edges, False)
            edges[GOAL] = False
            distance = np.full(NODES, LONGEST_WALK + 1)
            distance[GOAL] = 1
            for _ in range(LONGEST_WALK):
                through = np.where(edges, distance[None, :], LONGEST_WALK + 1).min(axis=1) + 1
                distance = np.minimum(distance, through)
            if (distance < LONGEST_WALK).all():
                return cls(edges, tuple(int(d) for d in distance))

    def walks(self, count: int, seed: int) -> list[str]:
        """Random walks from random starts, cut at ``LONGEST_WALK`` nodes; not all reach the goal."""
        draw = np.random.default_rng(seed)
        found = []
        for _ in range(count):
            walk = [int(draw.integers(1, NODES))]
            while walk[-1] != GOAL and len(walk) < LONGEST_WALK:
                walk.append(int(draw.choice(np.flatnonzero(self.edges[walk[-1]]))))
            found.append("".join(LETTERS[i] for i in walk))
        return found

    def optimality(self, start: str, completion: str) -> float:
        """1 for a shortest walk, 0 for one that takes a missing edge or does not arrive, linear between."""
        walk = [LETTERS.index(start)]
        for letter in completion.replace(" ", ""):
            node = LETTERS.find(letter)
            if node < 0 or not self.edges[walk[-1], node]:
                return 0.0
            walk.append(node)
            if node == GOAL:
                break
        shortest = self.shortest[walk[0]]
        if walk[-1] != GOAL:
            return 0.0
        return max(0.0, (LONGEST_WALK - len(walk)) / (LONGEST_WALK - shortest))

    def reward(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """Optimality, as a ``Reward``."""
        return [self.optimality(str(p), c) for p, c in zip(prompts, completions, strict=True)]


def letter_tokenizer() -> PreTrainedTokenizerFast:
    """One token per letter."""
    words = ["<pad>", "<s>", "</s>", *LETTERS]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def supervised_policy(graph: Graph, path: Path, *, seed: int, steps: int = 150) -> Path:
    """Train a small Llama on random walks and save it with its tokenizer."""
    torch.manual_seed(seed)
    tokenizer = letter_tokenizer()
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=176, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=32, pad_token_id=0,
            bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    rows = [[*tokenizer(walk)["input_ids"], tokenizer.eos_token_id] for walk in graph.walks(1000, seed)]
    draw = np.random.default_rng(seed)
    for _ in range(steps):
        ids, lengths = right_padded([rows[i] for i in draw.integers(0, len(rows), 100)], pad_id=0)
        real = torch.arange(1, ids.shape[1]) < lengths[:, None]
        loss = F.cross_entropy(model(ids).logits[:, :-1][real], ids[:, 1:][real])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def random_walks_settings(updates: int, seed: int) -> PPOSettings:
    """PPO for this task: a tiny network wants learning rates a thousand times those for pretrained models."""
    return PPOSettings(
        updates=updates,
        rollout_batch_size=128,
        epochs=4,
        mini_batches=2,
        generation=GenerationSettings(max_new_tokens=LONGEST_WALK),
        learning_rate=5e-4,
        critic_learning_rate=1e-3,
        learning_rate_schedule="linear",
        kl_coefficient=0.02,
        missing_eos_penalty=None,
        evaluate_every=10,
        selection_kl_coefficient=0.0,
        checkpoint_every=updates,
        precision="fp32",
        seed=seed,
    )


def learn_random_walks(folder: Path, *, seed: int, updates: int) -> PPOResult:
    """Supervised training and PPO in ``folder``; the dev prompts are all start nodes, several times."""
    graph = Graph.random(seed)
    policy = supervised_policy(graph, folder / "supervised", seed=seed)
    starts = list(LETTERS[1:])
    return train_ppo(
        policy,
        graph.reward,
        starts,
        random_walks_settings(updates, seed),
        output_dir=folder / "ppo",
        dev_prompts=starts * 10,
    )


class RolloutCurve(NullSink):
    """CPU seconds since it was made, and mean optimality, of each update's rollouts."""

    def __init__(self) -> None:
        self._started = time.process_time()
        self.points: list[tuple[float, float]] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        if "ppo/reward" in metrics:
            self.points.append((time.process_time() - self._started, metrics["ppo/reward"]))


def own_curve(folder: Path, seed: int, updates: int) -> list[tuple[float, float]]:
    """Train from ``folder/supervised`` without evaluations."""
    trainer = PPOTrainer(
        folder / "supervised",
        Graph.random(seed).reward,
        list(LETTERS[1:]),
        random_walks_settings(updates, seed),
        output_dir=folder / "ppo",
        sink=(curve := RolloutCurve()),
    )
    trainer.train()
    return curve.points


def trl_task(folder: Path, seed: int, updates: int) -> Path:
    """Write what TRL's side reads: the same start, and settings as near to ours as it has them."""
    graph, settings = Graph.random(seed), random_walks_settings(updates, seed)
    critic = AutoModelForSequenceClassification.from_pretrained(folder / "supervised", num_labels=1)
    torch.nn.init.zeros_(critic.get_parameter("score.weight"))
    critic.save_pretrained(folder / "critic")
    first = int(letter_tokenizer().convert_tokens_to_ids(LETTERS[0]))
    task = {
        "policy": str(folder / "supervised"),
        "critic": str(folder / "critic"),
        "reward": str(folder / "critic"),
        "output": str(folder / "trl"),
        "prompts": [[first + node] for node in range(1, NODES)] * 32,
        "rollouts": settings.rollout_batch_size,
        # with fewer rows TRL would accumulate gradients over the mini-batches and step half as often
        "micro_batch_rows": settings.rollout_batch_size,
        "mini_batches": settings.mini_batches,
        "epochs": settings.epochs,
        "response_length": LONGEST_WALK,
        "learning_rate": settings.learning_rate,
        "kl_coefficient": settings.kl_coefficient,
        "updates": updates,
        "seed": seed,
        "walks": {
            "edges": graph.edges.tolist(),
            "shortest": list(graph.shortest),
            "longest": LONGEST_WALK,
            "first_id": first,
            "goal": GOAL,
        },
    }
    path = folder / "trl.json"
    path.write_text(json.dumps(task))
    return path


def compare_with_trl(seeds: int, updates: int, venv: Path | None) -> None:
    """Print the time to ``LEARNT`` of both sides, seed by seed."""
    from side_by_side import machine_line, run_side, trl_python
    from transformers.utils import logging

    logging.set_verbosity_error()  # the critic's new head is meant to be new
    python, script = trl_python(venv), Path(__file__).resolve()
    print(f"| seed | TRL: update, CPU s to {LEARNT} | ours | faster by | TRL: last 3 of {updates} updates "
          "| ours |\n" + "|---" * 6 + "|")  # fmt: skip
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            supervised_policy(Graph.random(seed), folder / "supervised", seed=seed)
            task = trl_task(folder, seed, updates)
            theirs = run_side(python, script.with_name("trl_ppo_side.py"), [str(task)], ours=False)["curve"]
            arguments = ["--side", name, "--seed", str(seed), "--updates", str(updates)]
            ours = run_side(sys.executable, script, arguments)["curve"]
        ends = [sum(score for _, score in curve[-3:]) / 3 for curve in (theirs, ours)]
        reached = [time_to_learn(curve) for curve in (theirs, ours)]
        ratio = f"**{reached[0][1] / reached[1][1]:.2f}×**" if all(reached) else "–"  # type: ignore[index]
        shown = [f"{r[0]}, {r[1]:.1f}" if r else "not reached" for r in reached]
        print(
            f"| {seed} | {shown[0]} | {shown[1]} | {ratio} | {ends[0]:.3f} | {ends[1]:.3f} |",
            flush=True,
        )
    print(f"\n{machine_line()}; the other side TRL 1.11.0.")


def time_to_learn(curve: Sequence[Sequence[float]]) -> tuple[int, float] | None:
    """The first update whose rollouts reach ``LEARNT`` on average, and the CPU seconds until its end."""
    for update, (seconds, score) in enumerate(curve, start=1):
        if score >= LEARNT:
            return update, seconds
    return None


def main() -> None:
    """Print optimality by update for each seed, or the comparison with TRL."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=30)
    parser.add_argument("--trl", action="store_true", help="beside TRL's last PPOTrainer")
    parser.add_argument("--venv", type=Path, help="environment with TRL's last PPO (built if absent)")
    parser.add_argument("--side", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.side:
        found: dict[str, Any] = {"curve": own_curve(args.side, args.seed, args.updates)}
        print(json.dumps(found))
        return
    if args.trl:
        compare_with_trl(args.seeds, args.updates, args.venv)
        return
    for seed in range(args.seeds):
        start = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            result = learn_random_walks(Path(folder), seed=seed, updates=args.updates)
        curve = "  ".join(f"{e.update}: {e.reward:.3f}" for e in result.evaluations)
        print(f"seed {seed}  optimality by update  {curve}  ({time.process_time() - start:.0f} CPU s)")


if __name__ == "__main__":
    main()
