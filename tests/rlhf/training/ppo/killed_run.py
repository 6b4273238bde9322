"""A PPO run in a process of its own, which can be told to stop dead at a point and wait there to be killed.

``test_kill.py`` starts it: ``python killed_run.py POLICY CRITIC OUTPUT POINT UPDATE``. It goes on from the
newest checkpoint, prints ``held`` when it has reached the point in that update, and ``done`` at its end.
"""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from rlhf.models import generation
from rlhf.models.chat import Prompt
from rlhf.tracking import NullSink
from rlhf.training.ppo import checkpoint, learner, trainer
from rlhf.training.ppo.settings import PPOSettings

SETTINGS = {
    "updates": 4, "rollout_batch_size": 8, "epochs": 2, "mini_batches": 2, "learning_rate": 1e-2,
    "critic_learning_rate": 1e-2, "evaluate_every": 2, "checkpoint_every": 1, "precision": "fp32",
    "generation": {"max_new_tokens": 8}, "kl_controller": "adaptive", "kl_horizon": 20, "ema_decay": 0.5,
}  # fmt: skip
PROMPTS: list[Prompt] = ["a b c", "d", "e f", "g h i j", "k l", "m a", "b d f h", "c"]


def short(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
    """Likes short completions."""
    return [-float(len(c)) for c in completions]


def hold() -> None:
    """Wait for the end."""
    print("held", flush=True)
    time.sleep(600)


class HeldRun(trainer.PPOTrainer):
    """Stops at ``point`` ("rollouts", "learning" or "checkpoint") of update ``held_update``."""

    point, held_update = "", 0

    def generate(self) -> Any:
        self._hold("rollouts", generation, "choose_tokens", call=3)  # some tokens are drawn
        return super().generate()

    def learn(self, *args: Any) -> None:
        # the actor has taken its second step and the critic has not
        self._hold("learning", learner.torch.optim.AdamW, "step", call=3, after=lambda *_: None)
        super().learn(*args)

    def checkpoint(self) -> None:
        def cut(tensors: object, path: Path) -> None:
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2])

        self._hold("checkpoint", checkpoint, "save_file", call=3, after=cut)
        super().checkpoint()

    def _hold(
        self, point: str, owner: Any, name: str, *, call: int, after: Callable[..., None] | None = None
    ) -> None:
        """Let the ``call``-th call of a function from now on be the last thing that happens."""
        if point != self.point or self.update != self.held_update:
            return
        real, calls = getattr(owner, name), 0

        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call and after is None:
                hold()
            result = real(*args, **kwargs)
            if calls == call and after is not None:
                after(*args)
                hold()
            return result

        setattr(owner, name, counted)


def main() -> None:
    """Run as told."""
    policy, critic, output, HeldRun.point, update = sys.argv[1:]
    HeldRun.held_update = int(update)
    torch.set_num_threads(1)
    HeldRun(
        Path(policy),
        short,
        PROMPTS,
        PPOSettings.model_validate(SETTINGS),
        output_dir=Path(output),
        critic=Path(critic),
        dev_prompts=PROMPTS[:4],
        sink=NullSink(),
        resume=True,
    ).train()
    print("done", flush=True)


if __name__ == "__main__":
    main()
