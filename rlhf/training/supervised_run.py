"""Checkpoints of pre-training, supervised fine-tuning and reward models that a run resumes from bit for bit.

Unlike policy training, these trainers draw row order and dropout from torch's global random state, which is
stored twice: as it was when the epoch began, to draw the same order of rows again, and as it is at the step.
A checkpoint changes nothing in training or its curves, so it may be written after any step. Of several
processes, whose random states differ, process 0 writes everybody's.
"""

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from rlhf.errors import CheckpointError
from rlhf.feedback.rows import canonical_json
from rlhf.models.architecture import count_parameters
from rlhf.models.threads import choose_threads, intra_op_threads
from rlhf.tracking import MetricSink, recorded_curves, restore_curves
from rlhf.training.arguments import trained_model
from rlhf.training.callbacks import DevEvaluation
from rlhf.training.interruption import end_if_stop_requested
from rlhf.training.ppo.checkpoint import Checkpoint, load_newest, remove_checkpoints, save_checkpoint
from rlhf.training.ppo.identity import code_identity
from rlhf.training.processes import Processes, stop_requested_of_any
from rlhf.training.resumable import trainer_state, trainer_tensors, write_trainer_state
from rlhf.training.settings import TrainerSettings
from rlhf.training.supervised_trainer import SupervisedTrainer

logger = logging.getLogger(__name__)

NOT_IDENTITY = {"checkpoint_every", "keep_checkpoints", "processes", "sharding", "threads"}
"""Settings that may differ between a run and its continuation."""
_BATCH_ROWS = 1024


@dataclass(frozen=True)
class CheckpointPlan:
    """Where a training keeps its checkpoints, and what makes it the same training."""

    folder: Path
    """Checkpoints that are here already are continued."""
    identity: Mapping[str, Any]
    """JSON-able, by the names that an error tells."""

    def of_rows(self, rows: Dataset) -> "CheckpointPlan":
        """The plan, for these rows and no others."""
        return CheckpointPlan(self.folder, {**self.identity, "training rows": rows_digest(rows)})


def checkpoint_plan(
    folder: Path | None,
    settings: TrainerSettings,
    entry: str,
    *,
    stage: str,
    seed: int,
    base: Mapping[str, str] | None = None,
) -> CheckpointPlan | None:
    """The plan of a supervised training, or ``None`` for one without checkpoints.

    Args:
        entry: module of the training, whose code (with all that it imports) is part of the identity.
        stage: prefix of the settings' names in errors, such as ``sft``.
    """
    if folder is None:
        return None
    values = settings.model_dump(mode="json").items()
    identity = {f"{stage}.{key}": value for key, value in values if key not in NOT_IDENTITY}
    return CheckpointPlan(
        folder, {**identity, "seed": seed, "base": dict(base) if base else None, **code_identity(entry)}
    )


def run_trainer(
    trainer: SupervisedTrainer,
    settings: TrainerSettings,
    plan: CheckpointPlan | None = None,
    *,
    processes: Processes,
    sink: MetricSink,
    evaluation: DevEvaluation | None = None,
) -> dict[str, float]:
    """Train, on as many threads as the model deserves; gives the trainer's closing figures.

    ``train/tokens_per_second`` counts the tokens that are not padding.

    Args:
        plan: where checkpoints are kept and continued from; without it there are none.
        processes: that share each batch.

    Raises:
        CheckpointError: processes found different checkpoints.
        InterruptedRunError: a stop was requested, and a checkpoint has been written.
    """
    trainer.remove_callback(PrinterCallback)
    trainer.processes = processes
    if processes.rank:
        torch.manual_seed(trainer.args.seed + processes.rank)  # equal dropout would be correlated noise
    run = None
    if plan is not None:
        run = SupervisedRun(
            plan, settings, sink=sink, evaluation=evaluation, trainer=trainer, processes=processes
        )
    parameters = count_parameters(trained_model(trainer))
    with intra_op_threads(settings.threads or choose_threads(parameters)):
        outcome = trainer.train(resume_from_checkpoint=run.resume_folder() if run else None)
    seconds = outcome.metrics["train_runtime"] + (run.earlier_seconds if run else 0.0)
    tokens = getattr(trainer, "_total_train_tokens", 0)
    return {
        "train/loss": float(outcome.training_loss),
        "train/steps": float(outcome.global_step),
        "train/seconds": float(seconds),
        "train/tokens_per_second": tokens / seconds if seconds else 0.0,
        "model/parameters": float(parameters),
    }


class SupervisedRun(TrainerCallback):
    """Writes checkpoints of a trainer, and continues from the newest one.

    Args:
        sink: whose curves, if it keeps any, are part of the checkpoint.
        evaluation: whose newest figures are part of it as well.
        trainer: belongs to the run from now on.
    """

    def __init__(
        self,
        plan: CheckpointPlan,
        settings: TrainerSettings,
        *,
        sink: MetricSink,
        evaluation: DevEvaluation | None,
        trainer: SupervisedTrainer,
        processes: Processes,
    ) -> None:
        self._plan, self._settings = plan, settings
        self._sink, self._evaluation, self._trainer = sink, evaluation, trainer
        self._processes = processes
        self._epoch_began: dict[str, Tensor] = {}
        self._resumes_epoch = False
        self._stopping = False
        self._started = time.monotonic()
        self.restored = self._newest_checkpoint()
        trainer.run = self
        trainer.add_callback(self)

    def _newest_checkpoint(self) -> Checkpoint | None:
        found, refused = None, ""
        try:
            found = load_newest(self._plan.folder, self._plan.identity)
        except CheckpointError as error:
            refused = str(error)
        everybodys = self._processes.gather([found.update if found else 0], self._processes.count)
        if len(set(everybodys)) > 1:
            raise CheckpointError(
                f"Processes find checkpoints of different steps ({', '.join(map(str, everybodys))}) in "
                f"{self._plan.folder}; keep them on storage that all processes see."
            )
        if refused:
            logger.warning("Training starts anew: %s", refused)
            if self._processes.rank == 0:  # the others have looked, as they have answered above
                remove_checkpoints(self._plan.folder)
        return found

    @property
    def earlier_seconds(self) -> float:
        """Time that training took up to the restored checkpoint."""
        return 0.0 if self.restored is None else float(self.restored.state["seconds"])

    def resume_folder(self) -> str | None:
        """For the trainer's ``resume_from_checkpoint``."""
        return write_trainer_state(
            self.restored, self._plan.folder / _of_rank("trainer", self._processes.rank)
        )

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._started = time.monotonic()
        if self.restored is None:
            return
        kept, trainer = self.restored.state, self._trainer
        # What transformers begins at zero when it resumes, and what TRL gathers for its next log.
        losses = kept["loss"]
        same = len(losses) == self._processes.count
        trainer._tr_loss.fill_(losses[self._processes.rank] if same else sum(losses) / len(losses))
        trainer._total_loss_scalar = kept["total_loss"]
        trainer._globalstep_last_logged = kept["last_logged"]
        trainer._initial_global_step = 0
        trainer._total_train_tokens = kept["tokens"]  # type: ignore[attr-defined]
        for name, values in kept["figures"].items():
            trainer._metrics["train"][name] = list(values)  # type: ignore[attr-defined]
        if self._evaluation is not None:
            self._evaluation.latest = dict(kept["evaluation"])
        restore_curves(self._sink, kept["curves"])
        self._resumes_epoch = True
        logger.info("Resumed training after step %d from %s", state.global_step, self._plan.folder)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._resumes_epoch:
            assert self.restored is not None
            at_its_end = float(state.epoch or 0.0).is_integer()
            self._restore_random("random" if at_its_end else "epoch_random")
            self._resumes_epoch = False
        self._epoch_began = _random_state()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        due = state.global_step % self._settings.checkpoint_every == 0
        # after the last step, too: what comes then, such as a slow upload, may fail
        self._stopping = stop_requested_of_any(self._processes)
        if self._stopping or due or state.global_step == state.max_steps:
            control.should_save = True

    def save(self, trainer: Trainer) -> None:
        """Write everything that the rest of the run depends on; process 0 does it for all."""
        step, writes = trainer.state.global_step, self._processes.rank == 0
        tensors = trainer_tensors(trainer, keep=writes)
        own = ({"random": _random_state(), "epoch_random": self._epoch_began}, float(self._trainer._tr_loss))
        everybodys = self._processes.gather([own], self._processes.count)
        if writes:
            random = {
                _of_rank(name, rank): state
                for rank, (states, _) in enumerate(everybodys)
                for name, state in states.items()
            }
            save_checkpoint(
                self._plan.folder,
                Checkpoint(
                    step,
                    {**tensors, **random},
                    trainer_state(trainer) | self._state([loss for _, loss in everybodys]),
                ),
                self._plan.identity,
                keep=self._settings.keep_checkpoints,
            )
        self._processes.wait()
        if self._stopping:
            end_if_stop_requested(f"step {step}")

    def restore_random_state(self) -> None:
        self._restore_random("random")

    def _restore_random(self, name: str) -> None:
        """This process's random state; where the run had fewer processes, the present one stays."""
        assert self.restored is not None
        state = self.restored.tensors.get(_of_rank(name, self._processes.rank))
        if state is not None:
            _set_random_state(state)

    def _state(self, losses: Sequence[float]) -> dict[str, Any]:
        trainer = self._trainer
        return {
            "loss": list(losses),
            "total_loss": float(trainer._total_loss_scalar),
            "last_logged": trainer._globalstep_last_logged,
            "tokens": float(getattr(trainer, "_total_train_tokens", 0)),
            "figures": {name: list(values) for name, values in trainer._metrics["train"].items()},  # type: ignore[attr-defined]
            "evaluation": {} if self._evaluation is None else dict(self._evaluation.latest),
            "curves": recorded_curves(self._sink),
            "seconds": self.earlier_seconds + time.monotonic() - self._started,
        }


def rows_digest(rows: Dataset) -> str:
    """Hex SHA-256 of a dataset's content: equal for equal rows, however they lie in memory."""
    digest = hashlib.sha256(canonical_json(sorted(rows.column_names)).encode())
    for start in range(0, len(rows), _BATCH_ROWS):
        batch = rows[start : start + _BATCH_ROWS]
        digest.update(canonical_json({name: list(values) for name, values in batch.items()}).encode())
    return digest.hexdigest()


def _of_rank(name: str, rank: int) -> str:
    return f"{name}-{rank}" if rank else name


def _random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
