"""Trainers of transformers and TRL with our own checkpoints: safetensors and JSON, written atomically, in
place of transformers' own, which pickle and may be left half-written.

What a run keeps beside its trainer is the run's business (``policy_run``, ``supervised_run``); here is only
what all have in common.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, cast

from torch import Tensor, nn
from transformers import Trainer

from rlhf.training.ppo.actor_critic import copy_into
from rlhf.training.ppo.adapters import trained_parameters
from rlhf.training.ppo.checkpoint import Checkpoint, optimizer_tensors, restore_optimizer
from rlhf.training.ppo.sharding import gathered

WEIGHTS = "weights"
OPTIMIZER = "optimizer"


class CheckpointedRun(Protocol):
    """What a :class:`ResumableTrainer` asks of the run that it belongs to."""

    restored: Checkpoint | None
    """What the run goes on from."""

    def save(self, trainer: Trainer) -> None:
        """Write a checkpoint of everything that the rest of the run depends on."""
        ...

    def restore_random_state(self) -> None:
        """Called when the restored step is the next one."""
        ...


class ResumableTrainer(Trainer):
    """A trainer whose checkpoints are its run's. To be mixed into TRL's."""

    run: CheckpointedRun

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.run.save(self)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        assert self.run.restored is not None
        copy_into(trained_parameters(cast(nn.Module, self.model)), self.run.restored.tensors[WEIGHTS])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        assert self.run.restored is not None
        assert self.optimizer is not None
        assert self.lr_scheduler is not None
        restored = self.run.restored
        restore_optimizer(
            self.optimizer, trained_parameters(cast(nn.Module, self.model)), restored.tensors[OPTIMIZER]
        )
        self.lr_scheduler.load_state_dict(restored.state["scheduler"])
        for group, rate in zip(self.optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True):
            group["lr"] = rate

    def _load_rng_state(self, checkpoint: str | None) -> None:
        self.run.restore_random_state()

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Nothing to load: float16 is not offered."""


def trainer_tensors(trainer: Trainer, *, keep: bool = True) -> dict[str, Mapping[str, Tensor]]:
    """The trained weights and the optimizer's state.

    Args:
        keep: whether this process wants them. All must ask at once where weights are shared.
    """
    assert trainer.optimizer is not None
    trained = trained_parameters(cast(nn.Module, trainer.model))
    return {
        WEIGHTS: gathered(cast(dict[str, Tensor], trained), keep=keep),
        OPTIMIZER: gathered(optimizer_tensors(trainer.optimizer, trained), keep=keep),
    }


def trainer_state(trainer: Trainer) -> dict[str, Any]:
    """Counters and the learning rate's schedule, JSON-able."""
    assert trainer.lr_scheduler is not None
    return {
        "trainer": {**asdict(trainer.state), "log_history": []},
        "scheduler": trainer.lr_scheduler.state_dict(),
    }


def write_trainer_state(restored: Checkpoint | None, folder: Path) -> str | None:
    """A directory with the one file that transformers itself reads on resuming, as its argument
    ``resume_from_checkpoint``; ``None`` to start anew."""
    if restored is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trainer_state.json").write_text(json.dumps(restored.state["trainer"]))
    return str(folder)
