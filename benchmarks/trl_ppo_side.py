"""TRL's side of the PPO comparisons: its last ``PPOTrainer`` on a task that a JSON file describes.

Runs in an environment with TRL's last release that has one and imports nothing of this project. TRL is left
as it is but for two things without which the sides could not be compared: completions end where the task says
(a logits processor), and the random walks are rewarded by their exact optimality in place of a model.

Usage: ``python trl_ppo_side.py SPEC.json``. Prints one JSON object.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import trl.experimental.ppo.ppo_trainer as library
from datasets import Dataset
from side_by_side import Stopwatch, peak_bytes
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LogitsProcessor,
    LogitsProcessorList,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer


class ForcedLengths(LogitsProcessor):
    """Forbids EOS before a row's last token and allows nothing else there."""

    def __init__(self, lengths: dict[tuple[int, ...], int], eos: int, pad: int) -> None:
        self._lengths, self._eos, self._pad = lengths, eos, pad
        self._width = 0
        self._ends = torch.empty(0)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not self._width:
            self._width = input_ids.shape[1]
            prompts = [tuple(i for i in row if i != self._pad) for row in input_ids.tolist()]
            self._ends = torch.tensor([self._lengths[prompt] for prompt in prompts])
        last = input_ids.shape[1] - self._width + 1 >= self._ends
        kept = scores[:, self._eos].clone()
        scores[:, self._eos] = float("-inf")
        scores[last] = float("-inf")
        scores[last, self._eos] = kept[last]
        return scores


def main() -> None:
    """Run the task and print its figures."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    torch.manual_seed(spec["seed"])
    trainer = build_trainer(spec)
    tokenizer = trainer.processing_class
    if "lengths" in spec:
        lengths = {tuple(p): n for p, n in zip(spec["prompts"], spec["lengths"], strict=True)}
        force_lengths(trainer.policy_model, lengths, tokenizer.eos_token_id, tokenizer.pad_token_id)
    if "walks" in spec:
        reward_walks(trainer.reward_model, spec["walks"])
    counts = count_work(trainer, tokenizer.pad_token_id)
    started = time.process_time()
    curve: list[tuple[float, float]] = []

    def log(metrics: dict[str, float], *args: Any, **kwargs: Any) -> None:
        curve.append((time.process_time() - started, metrics["objective/scores"]))

    trainer.log = log
    with Stopwatch() as watch:
        trainer.train()
    updates = spec["updates"]
    print(
        json.dumps(
            {
                "cpu_seconds": watch.cpu_seconds / updates,
                "wall_seconds": watch.wall_seconds / updates,
                "peak_bytes": peak_bytes(),
                "curve": curve,
                **counts,
            }
        )
    )


def build_trainer(spec: dict[str, Any]) -> PPOTrainer:
    """A trainer at TRL's defaults but for what the task fixes."""
    tokenizer = AutoTokenizer.from_pretrained(spec["policy"], padding_side="left")
    policy, reference = (AutoModelForCausalLM.from_pretrained(spec["policy"]) for _ in range(2))
    value, reward = (
        AutoModelForSequenceClassification.from_pretrained(spec[name], num_labels=1)
        for name in ("critic", "reward")
    )
    rows = len(spec["prompts"]) if "rollouts" not in spec else spec["rollouts"]
    arguments = PPOConfig(
        output_dir=spec["output"],
        use_cpu=True,
        bf16=False,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        num_sample_generations=0,
        seed=spec["seed"],
        per_device_train_batch_size=spec["micro_batch_rows"],
        gradient_accumulation_steps=rows // spec["micro_batch_rows"],
        num_mini_batches=spec["mini_batches"],
        num_ppo_epochs=spec["epochs"],
        total_episodes=rows * spec["updates"],
        local_rollout_forward_batch_size=64,
        response_length=spec["response_length"],
        stop_token="eos",
        learning_rate=spec["learning_rate"],
        kl_coef=spec["kl_coefficient"],
        temperature=1.0,
        logging_steps=1,
    )
    trainer = PPOTrainer(
        args=arguments,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward,
        train_dataset=Dataset.from_dict({"input_ids": spec["prompts"]}),
        value_model=value,
    )
    if rows == len(spec["prompts"]):
        # While a loader gives its last batch, accelerate lets the optimizer step after every micro-batch; one
        # batch is always the last. A list is no loader.
        trainer.dataloader = list(trainer.dataloader)
    return trainer


def force_lengths(policy: Any, lengths: dict[tuple[int, ...], int], eos: int, pad: int) -> None:
    """Let completions end where the task says."""
    sample = policy.generate

    def generate(*args: Any, **kwargs: Any) -> Any:
        processors = LogitsProcessorList([ForcedLengths(lengths, eos, pad)])
        return sample(*args, **kwargs, logits_processor=processors)

    policy.generate = generate


def reward_walks(reward_model: torch.nn.Module, walks: dict[str, Any]) -> None:
    """Let the walks' optimality take the reward model's place; the value model stays."""
    edges, shortest, longest = walks["edges"], walks["shortest"], walks["longest"]
    first, goal = walks["first_id"], walks["goal"]

    def optimality(ids: list[int], start: int) -> float:
        walk = [start]
        for token in ids:
            if token < first:
                break
            node = token - first
            if not edges[walk[-1]][node]:
                return 0.0
            walk.append(node)
            if node == goal:
                return max(0.0, (longest - len(walk)) / (longest - shortest[start]))
        return 0.0

    of_models: Callable[..., Any] = library.get_reward

    def get_reward(
        model: torch.nn.Module, query_responses: torch.Tensor, pad_token_id: int, context_length: int
    ) -> Any:
        if model is not reward_model:
            return of_models(model, query_responses, pad_token_id, context_length)
        scores = [
            optimality(row[context_length:], row[context_length - 1] - first)
            for row in query_responses.tolist()
        ]
        return None, torch.tensor(scores), None

    library.get_reward = get_reward


def count_work(trainer: PPOTrainer, pad: int) -> dict[str, int]:
    """Figures that grow while it trains: tokens sampled and trained on, and optimizer steps that were
    taken."""
    counts = {"response_tokens": 0, "trained_tokens": 0, "optimizer_steps": 0}
    width = 0
    sample, forward = library.batch_generation, library.forward

    def batch_generation(model: Any, queries: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        nonlocal width
        width = queries.shape[1]
        sequences, logits = sample(model, queries, *args, **kwargs)
        counts["response_tokens"] += int((sequences[:, width:] != pad).sum())
        return sequences, logits

    def counted_forward(model: Any, query_responses: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            counts["trained_tokens"] += int((query_responses[:, width:] != pad).sum())
        return forward(model, query_responses, *args, **kwargs)

    def stepped(*_: Any) -> None:
        counts["optimizer_steps"] += 1

    library.batch_generation, library.forward = batch_generation, counted_forward
    # accelerate's wrapper is called for every micro-batch; the optimizer inside of it steps
    trainer.optimizer.optimizer.register_step_post_hook(stepped)
    return counts


if __name__ == "__main__":
    main()
