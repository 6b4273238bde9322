"""Our side of the PPO comparison: updates of ``PPOTrainer`` on a task that a JSON file describes.

The trainer is left as it is; around the sampler a wrapper ends completions where the task says, as the other
side's logits processor does.

Usage: ``python our_ppo_side.py SPEC.json``. Prints one JSON object.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from side_by_side import Stopwatch, peak_bytes
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from rlhf.models import generation
from rlhf.models.rewards import RewardModelReward
from rlhf.models.settings_generation import GenerationSettings
from rlhf.tracking import NullSink
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.ppo.trainer import PPOTrainer


def main() -> None:
    """Run the task and print its figures."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    budget = spec["micro_batch_rows"] * (max(map(len, spec["prompts"])) + spec["response_length"])
    settings = PPOSettings(
        updates=spec["updates"],
        rollout_batch_size=len(spec["prompts"]),
        epochs=spec["epochs"],
        mini_batches=spec["mini_batches"],
        micro_batch_tokens=budget,
        generation=GenerationSettings(max_new_tokens=spec["response_length"]),
        learning_rate=spec["learning_rate"],
        critic_learning_rate=spec["learning_rate"],
        kl_coefficient=spec["kl_coefficient"],
        seed=spec["seed"],
        **spec["ours"],
    )
    trainer = PPOTrainer(
        spec["policy"],
        RewardModelReward(spec["reward"], token_budget=budget),
        [" ".join(f"w{i}" for i in ids) for ids in spec["prompts"]],
        settings,
        output_dir=Path(spec["output"]),
        critic=Path(spec["critic"]) if settings.critic == "separate" else None,
        sink=NullSink(),
    )
    lengths = {tuple(p): n for p, n in zip(spec["prompts"], spec["lengths"], strict=True)}
    counts = count_work(trainer)
    phases: dict[str, float] = dict.fromkeys(("generate", "score", "advantages", "learn"), 0.0)

    def timed(phase: str, act: Callable[[], Any]) -> Any:
        with Stopwatch() as watch:
            result = act()
        phases[phase] += watch.cpu_seconds / settings.updates
        return result

    with Stopwatch() as watch, forced_lengths(lengths):
        for _ in range(settings.updates):
            trainer.update += 1
            rollouts = timed("generate", trainer.generate)
            scores = timed("score", lambda: trainer.score(rollouts))  # noqa: B023 - called at once
            experience = timed("advantages", lambda: trainer.advantages(rollouts, scores))  # noqa: B023
            timed("learn", lambda: trainer.learn(rollouts, experience))  # noqa: B023
            counts["response_tokens"] += sum(len(c.token_ids) for c in rollouts.completions)
    print(
        json.dumps(
            {
                "cpu_seconds": watch.cpu_seconds / settings.updates,
                "wall_seconds": watch.wall_seconds / settings.updates,
                "peak_bytes": peak_bytes(),
                "phases": phases,
                **counts,
            }
        )
    )


@contextmanager
def forced_lengths(lengths: dict[tuple[int, ...], int]) -> Iterator[None]:
    """Let completions end where the task says: EOS is impossible before a row's last token and chosen there.

    Rows leave the batch while it is decoded. Which rows a step decodes is read off their uniform numbers, of
    which no two rows have the same at one step.
    """
    sample, choose = generation._sample_batch, generation.choose_tokens
    ends, drawn, eos, step = torch.empty(0), torch.empty(0), 0, 0

    def sample_batch(
        model: Any, prompts: Sequence[Sequence[int]], uniforms: Tensor, settings: Any, stop: frozenset[int]
    ) -> Any:
        nonlocal ends, drawn, eos, step
        ends, drawn, step = torch.tensor([lengths[tuple(p)] for p in prompts]), uniforms, 0
        (eos,) = stop
        return sample(model, prompts, uniforms, settings, stop)

    def choose_tokens(logits: Tensor, uniforms: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        nonlocal step
        ordered, order = drawn[:, step].sort()
        if len(ordered.unique()) < len(ordered):
            raise SystemExit("Two rows drew the same number at one step; choose another seed.")
        rows = order[torch.searchsorted(ordered, uniforms.cpu())]
        step += 1
        last = ends[rows] <= step
        logits = logits.float()
        allowed = logits[:, eos].clone()
        logits[:, eos] = float("-inf")
        logits[last] = float("-inf")
        logits[last, eos] = allowed[last]
        return choose(logits, uniforms, **options)

    generation._sample_batch, generation.choose_tokens = sample_batch, choose_tokens  # type: ignore[assignment]
    try:
        yield
    finally:
        generation._sample_batch, generation.choose_tokens = sample, choose


def count_work(trainer: PPOTrainer) -> dict[str, int]:
    """Figures that grow while it trains: tokens sampled and trained on, and optimizer steps that were
    taken."""
    counts = {"response_tokens": 0, "trained_tokens": 0, "optimizer_steps": 0}
    predict = trainer.models.predict
    taken: dict[int, int] = {}

    def counted_predict(batch: Any, **options: Any) -> Any:
        if torch.is_grad_enabled() and options.get("actor", True):
            counts["trained_tokens"] += len(batch.targets)
        return predict(batch, **options)

    def stepped(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # actor and critic have an optimizer each; one step of both is one step
        taken[id(optimizer)] = taken.get(id(optimizer), 0) + 1
        counts["optimizer_steps"] = max(taken.values())

    trainer.models.predict = counted_predict  # type: ignore[method-assign]
    register_optimizer_step_post_hook(stepped)
    return counts


if __name__ == "__main__":
    main()
