"""What RLOO, GRPO, DPO and KTO share around TRL's trainers: dev evaluations, the choice of a checkpoint,
early stops, and checkpoints that a run resumes from bit for bit.

TRL computes losses and steps the optimizer. Everything else is as in ``rlhf.training.ppo``: every random
number is a function of seed and step, so no random state is stored.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from rlhf.errors import ConfigError, TrainingError
from rlhf.models.architecture import count_parameters
from rlhf.models.directory import model_identity
from rlhf.models.generation import without_dropout
from rlhf.models.loading import load_policy, load_tokenizer, require_base
from rlhf.models.log_probs import CompletionBatch, score_completions
from rlhf.models.rewards import Reward
from rlhf.models.saving import quiet_transformers
from rlhf.models.threads import choose_threads, intra_op_threads
from rlhf.tracking import MetricSink, recorded_curves, restore_curves
from rlhf.training.arguments import autocast_like, quantization_options
from rlhf.training.callbacks import SinkCallback
from rlhf.training.interruption import end_if_stop_requested, stop_requested
from rlhf.training.policy_evaluation import evaluate
from rlhf.training.policy_result import (
    PolicyEvaluation,
    PolicyResult,
    best_evaluation,
    early_stop_reason,
    selection_criterion,
)
from rlhf.training.ppo.adapters import merge_trained_adapter
from rlhf.training.ppo.batching import derived_seed
from rlhf.training.ppo.checkpoint import (
    Checkpoint,
    best_policy_path,
    copy_policy,
    has_checkpoint,
    keep_best_policy,
    load_newest,
    save_checkpoint,
    save_policy,
)
from rlhf.training.ppo.identity import code_identity, reward_identities
from rlhf.training.ppo.prompts import EncodedPrompts
from rlhf.training.resumable import ResumableTrainer, trainer_state, trainer_tensors, write_trainer_state
from rlhf.training.settings_policy import ComparisonSettings, RolloutSettings, algorithm_of

logger = logging.getLogger(__name__)

_NOT_IDENTITY = {"checkpoint_every", "keep_checkpoints", "threads"}
"""Settings that may differ between a run and its continuation."""
_ENTRIES = ("rlhf.training.group_rollouts", "rlhf.training.preference")


class PolicyAndReference:
    """The policy that a trainer holds and its frozen start; for an adapter, the same model without it.

    Args:
        trained: the trainer's model.
        reference: the starting policy; ``None`` if ``trained`` is an adapter's.
        arguments: of the trainer, for the same arithmetic.
        temperature: of the completions; all log-probabilities are of that policy.
    """

    def __init__(
        self,
        trained: PreTrainedModel,
        reference: PreTrainedModel | None,
        arguments: TrainingArguments,
        temperature: float,
    ) -> None:
        self.trained = trained
        self._reference = reference
        self._arguments = arguments
        self._temperature = temperature or 1.0  # greedy answers are compared by the model's own distribution

    @property
    def device(self) -> torch.device:
        """Where both are."""
        return self.sampler.device

    @property
    def sampler(self) -> PreTrainedModel:
        """The network that answers, its adapter (if any) switched on."""
        return trained_network(self.trained)

    def log_probs_and_entropy(self, batch: CompletionBatch) -> tuple[Tensor, Tensor]:
        """The policy's log-probabilities [N] and entropies [N], in nats."""
        log_probs, entropies = self._scored(self.sampler, batch, entropy=True)
        assert entropies is not None
        return log_probs, entropies

    def reference_log_probs(self, batch: CompletionBatch) -> Tensor:
        """Log-probabilities [N] under the policy that training started from."""
        with self.trained.disable_adapter() if isinstance(self.trained, PeftModel) else nullcontext():
            return self._scored(self._reference or self.sampler, batch)[0]

    def _scored(
        self, model: PreTrainedModel, batch: CompletionBatch, *, entropy: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        with autocast_like(self._arguments):
            return score_completions(model, batch, temperature=self._temperature, entropy=entropy)[:2]


class PolicyRun(TrainerCallback):
    """The state of a run beside its trainer's, and the trainer's callback that keeps it.

    Args:
        policy: directory of the policy to start from, which is also the reference.
        dev: what every evaluation answers; without any, the last policy is delivered.
        reward: the maximised one, or for algorithms without one what is reported in its place.
        selection: chooses the checkpoint; without it ``reward`` does.
        output: gets ``checkpoints/`` and, at the end, ``policy/`` (not sealed).
        data: digests of what is trained on, by name; a run continues only with the same.
        updates: length of the run.
        steps_per_update: optimizer steps of an update.
        renamed: see :class:`SinkCallback`.

    Raises:
        TrainingError: ``output`` holds checkpoints and they are not to be resumed, or are of another run.
    """

    def __init__(
        self,
        settings: RolloutSettings | ComparisonSettings,
        *,
        policy: Path,
        tokenizer: PreTrainedTokenizerBase,
        dev: EncodedPrompts,
        reward: Reward | None,
        selection: Reward | None,
        output: Path,
        data: Mapping[str, str],
        updates: int,
        steps_per_update: int,
        sink: MetricSink,
        renamed: Callable[[Mapping[str, float]], dict[str, float]],
        resume: bool,
    ) -> None:
        if dev.ids and reward is None:
            raise ConfigError("Dev prompts need a reward that scores their answers; give one, or no prompts.")
        self.settings = settings
        self.algorithm = algorithm_of(settings)
        self.output = output
        self.updates = updates
        self.steps_per_update = steps_per_update
        self.evaluations: list[PolicyEvaluation] = []
        self.update = 0
        self.curves = SinkCallback(
            sink, f"{self.algorithm}/", renamed=renamed, steps_per_update=steps_per_update
        )
        self.restored: Checkpoint | None = None
        self._policy, self._tokenizer, self._dev = policy, tokenizer, dev
        self._reward, self._selection, self._sink = reward, selection, sink
        self._models: PolicyAndReference | None = None
        self._checkpoints = output / "checkpoints"
        self._identity = {
            **{
                f"{self.algorithm}.{key}": value
                for key, value in settings.model_dump(mode="json").items()
                if key not in _NOT_IDENTITY
            },
            "policy": model_identity(policy),
            **reward_identities(reward, selection),
            **data,
            **code_identity(*_ENTRIES),
            "trl version": version("trl"),
        }
        if resume:
            self._restore()
        elif has_checkpoint(self._checkpoints):
            raise TrainingError(
                f"{self._checkpoints} holds checkpoints of an earlier run; resume it, or choose an empty "
                "directory."
            )

    def train(self, trainer: "OrderedTrainer") -> PolicyResult:
        """Run the trainer to the end and deliver the chosen policy."""
        self._sink.log_params(
            {f"{self.algorithm}/{k}": v for k, v in self.settings.model_dump(mode="json").items()}
        )
        trainer.run = self
        trainer.remove_callback(PrinterCallback)
        trained = cast(PreTrainedModel, trainer.model)
        self._models = PolicyAndReference(
            trained, self._reference_of(trainer), trainer.args, self.settings.generation.temperature
        )
        threads = self.settings.threads or choose_threads(count_parameters(trained))
        with intra_op_threads(threads), quiet_transformers():
            if not self._stop_reason():
                trainer.train(
                    resume_from_checkpoint=write_trainer_state(self.restored, self.output / "trainer")
                )
            return self._deliver(trained)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not self.evaluations:
            self._evaluate()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # adapters' dropout and the order of mini-batches draw from the global state
        set_seed(derived_seed(self.settings.seed, "mini-batches", state.global_step) % 2**32)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step % self.steps_per_update:
            return
        self.update = state.global_step // self.steps_per_update
        if self.update % self.settings.evaluate_every == 0 or self.update == self.updates:
            self._evaluate()
        stop = bool(self._stop_reason())
        control.should_training_stop |= stop
        if stop or stop_requested() or self.update % self.settings.checkpoint_every == 0:
            # what has gathered for the next log is in no checkpoint
            control.should_log = control.should_save = True

    def save(self, trainer: Trainer) -> None:
        """Write everything that the rest of the run depends on."""
        state = {
            **trainer_state(trainer),
            "evaluations": [e.to_json() for e in self.evaluations],
            "figures": self.curves.latest,
            "curves": recorded_curves(self._sink),
        }
        save_checkpoint(
            self._checkpoints,
            Checkpoint(self.update, trainer_tensors(trainer), state),
            self._identity,
            keep=self.settings.keep_checkpoints,
        )
        # only now: until here a resumed run would have started from a checkpoint that names an older best
        keep_best_policy(self._checkpoints, best_evaluation(self.evaluations))
        end_if_stop_requested(f"update {self.update}")

    def restore_random_state(self) -> None:
        """Nothing to do: the run seeds every step."""

    def _restore(self) -> None:
        self.restored = load_newest(self._checkpoints, self._identity)
        if self.restored is None:
            return
        self.update = self.restored.update
        self.evaluations = [PolicyEvaluation.from_json(e) for e in self.restored.state["evaluations"]]
        self.curves.latest = dict(self.restored.state["figures"])
        restore_curves(self._sink, self.restored.state["curves"])
        logger.info("Resumed %s after update %d from %s", self.algorithm, self.update, self._checkpoints)

    def _reference_of(self, trainer: Trainer) -> PreTrainedModel | None:
        if isinstance(trainer.model, PeftModel) or not self._dev.ids:
            return None
        own = getattr(trainer, "ref_model", None)
        if own is None:
            attention = cast(PreTrainedModel, trainer.model).config._attn_implementation
            own = load_policy(self._policy, attn_implementation=attention)
            nn.Module.to(own, trainer.args.device)
        return cast(PreTrainedModel, trainer.accelerator.unwrap_model(own))

    def _evaluate(self) -> None:
        """Answer the dev prompts, and keep the policy if none was better before it."""
        if not self._dev.ids:
            return
        assert self._models is not None
        assert self._reward is not None
        trained = self._models.trained
        with without_dropout(trained):
            found = evaluate(
                self._models,
                self._tokenizer,
                self._dev,
                self._reward,
                self._selection,
                self.settings,
                update=self.update,
            )
        self.evaluations.append(found)
        if best_evaluation(self.evaluations) is found:
            save_policy(trained, self._tokenizer, best_policy_path(self._checkpoints, found))
        figures = {f"{self.algorithm}_eval/{k}": v for k, v in found.figures().items()}
        self._sink.log_metrics(figures, self.update)

    def _deliver(self, trained: PreTrainedModel) -> PolicyResult:
        best = best_evaluation(self.evaluations)
        target = self.output / "policy"
        source = self.output / "last" if best is None else best_policy_path(self._checkpoints, best)
        if best is None:
            save_policy(trained, self._tokenizer, source)
        if isinstance(trained, PeftModel):
            # merged from the files: the run's own model may be beyond the checkpoint, or in 4 bits
            save_policy(merge_trained_adapter(load_policy(self._policy), source), self._tokenizer, target)
        else:
            copy_policy(source, target)
        evaluated = {} if best is None else best.figures()
        return PolicyResult(
            policy_path=target,
            evaluations=tuple(self.evaluations),
            best_update=self.update if best is None else best.update,
            criterion=selection_criterion(
                dev_prompts=bool(self._dev.ids),
                selection=self._selection is not None,
                kl_coefficient=self.settings.selection_kl_coefficient,
            ),
            updates=self.update,
            stop_reason=self._stop_reason(),
            prompts_dropped=self._dev.dropped,
            metrics={
                **{f"{self.algorithm}/{k}": v for k, v in self.curves.latest.items()},
                **{f"{self.algorithm}_eval/{k}": v for k, v in evaluated.items()},
            },
        )

    def _stop_reason(self) -> str:
        early = early_stop_reason(
            self.evaluations, stop_kl=self.settings.stop_kl, patience=self.settings.patience
        )
        return early or ("all updates done" if self.update >= self.updates else "")


class RunOrder(Sampler[int]):
    """Rows of the training set in the order of the whole run, which is one epoch to the trainer."""

    def __init__(self, order: Sequence[int]) -> None:
        self._order = order

    def __iter__(self) -> Iterator[int]:
        return iter(self._order)

    def __len__(self) -> int:
        return len(self._order)


class OrderedTrainer(ResumableTrainer):
    """A resumable trainer whose row order is given."""

    run: PolicyRun
    order: Sequence[int]

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> RunOrder:
        return RunOrder(self.order)


def load_start(
    policy: Path, settings: RolloutSettings | ComparisonSettings
) -> tuple[Path, PreTrainedModel, PreTrainedTokenizerBase]:
    """The directory, model and tokenizer that a run starts from.

    Raises:
        ModelError: it is absent, an adapter, or another kind of model.
        ConfigError: 4-bit weights are asked for where there is no CUDA device.
    """
    base = require_base(policy, "the policy to start from")
    tokenizer = load_tokenizer(base)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # what is padded is masked by length, never by id
    return base, load_policy(base, **quantization_options(settings.lora)), tokenizer


def trained_network(model: PreTrainedModel) -> PreTrainedModel:
    """The language model itself where PEFT wraps it, its adapter switched on."""
    return model.get_base_model() if isinstance(model, PeftModel) else model
