"""DPO and KTO: a policy straight from comparisons, without rollouts. The losses are TRL's.

Tokenising and row order are this library's own: the ids of training are those of rollouts and scoring, rows
that are too long are counted instead of cut in silence, and the order is a function of the seed.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

from rlhf.errors import DataError
from rlhf.feedback.rows import sha256_of
from rlhf.models.chat import Prompt, encode_completion, encode_prompt
from rlhf.models.rewards import Reward
from rlhf.models.saving import quiet_transformers
from rlhf.tracking import MetricSink, NullSink
from rlhf.training.arguments import (
    check_length,
    choose_attention,
    training_arguments,
)
from rlhf.training.lora import lora_config
from rlhf.training.policy_result import PolicyResult
from rlhf.training.policy_run import OrderedTrainer, PolicyRun, load_start
from rlhf.training.ppo.batching import prompts_of_update
from rlhf.training.ppo.prompts import encode_prompts
from rlhf.training.rows import EncodedRows, completion_text, scaled_weights
from rlhf.training.settings import TrainerSettings
from rlhf.training.settings_policy import ComparisonSettings, DPOSettings, algorithm_of

logger = logging.getLogger(__name__)

_USUAL_LENGTH = 1024
"""Tokens of the longest row where neither settings nor the model's positions say less (TRL's default)."""


def train_on_comparisons(
    policy: Path,
    comparisons: Dataset,
    settings: ComparisonSettings,
    *,
    output_dir: Path,
    dev_prompts: Sequence[Prompt] = (),
    reward: Reward | None = None,
    selection: Reward | None = None,
    sink: MetricSink | None = None,
    resume: bool = False,
) -> PolicyResult:
    """Improve a policy by comparisons with DPO or KTO, as the settings' class says.

    Args:
        policy: directory of the policy to start from; it is the reference as well.
        comparisons: ``prompt``, ``chosen``, ``rejected``, and ``fold`` where one is chosen; for KTO also
            ``prompt``, ``completion``, ``label`` (whether it is good).
        output_dir: gets ``checkpoints/`` and, at the end, ``policy/`` (a full model, not sealed).
        dev_prompts: what every evaluation answers; without any, the last policy is delivered.
        reward: reported of the dev answers; nothing is trained by it.
        selection: chooses the checkpoint; without it ``reward`` does, and ``criterion`` says so.
        sink: receives ``dpo/...`` or ``kto/...`` as training goes, and the same name with ``_eval`` after
            each evaluation.
        resume: continue from the newest checkpoint in ``output_dir``; start anew if there is none.

    Raises:
        DataError: nothing to train on, or rows of another shape.
        ModelError, ConfigError: a model that is absent, of the wrong kind, or does not fit the machine.
        TrainingError: a checkpoint of another run, a loss that is not finite.
    """
    name = algorithm_of(settings)
    rows = _of_fold(comparisons, settings.fold, name)
    base, model, tokenizer = load_start(policy, settings)
    if settings.max_length is not None:
        check_length(settings.max_length, model.config, name)
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", _USUAL_LENGTH)
    limit = settings.max_length or min(_USUAL_LENGTH, positions)
    if isinstance(settings, DPOSettings):
        encoded = encode_paired(
            rows,
            tokenizer,
            max_length=limit,
            weights=settings.use_weights,
            agreements=settings.soft_labels,
        )
    else:
        encoded = encode_unpaired(rows, tokenizer, max_length=limit)
    if encoded.dropped:
        logger.warning(
            "%d of %d rows are longer than %s.max_length %d and were left out.",
            encoded.dropped, encoded.dropped + len(encoded.dataset), name, limit,
        )  # fmt: skip
    total = len(encoded.dataset)
    if not total:
        raise DataError(
            f"All {encoded.dropped} training rows are longer than {name}.max_length; raise the limit."
        )
    steps = settings.max_steps or math.ceil(settings.epochs * total / settings.batch_size)
    run = PolicyRun(
        settings,
        policy=base,
        tokenizer=tokenizer,
        dev=encode_prompts(model, tokenizer, dev_prompts, settings),
        reward=reward,
        selection=selection,
        output=output_dir,
        data={
            "comparisons": sha256_of(encoded.dataset.to_list()),
            "dev prompts": sha256_of(list(dev_prompts)),
        },
        updates=steps,
        steps_per_update=1,
        sink=sink or NullSink(),
        renamed=_renamed,
        resume=resume,
    )
    with quiet_transformers():  # the trainer loads the reference
        trainer = _trainer(
            model, tokenizer, encoded.dataset, settings, run, output_dir / "trainer", steps=steps, limit=limit
        )
    trainer.order = [
        row
        for step in range(1, steps + 1)
        for row in prompts_of_update(step, settings.batch_size, total, settings.seed)
    ]
    return run.train(trainer)


def encode_paired(
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    weights: bool = False,
    agreements: bool = False,
) -> EncodedRows:
    """Comparisons as ``prompt_ids``, ``chosen_ids``, ``rejected_ids``, and with ``weights`` or ``agreements``
    both ``weight`` (scaled to a mean of one) and ``agreement``, 1 for the one that is not asked for; a pair
    with a side over the limit is left out.

    Raises:
        DataError: a column is missing, a side is not one assistant turn, or all weights are 0.
    """
    used = {name for name, wanted in (("weight", weights), ("agreement", agreements)) if wanted}
    _require(rows, {"prompt", "chosen", "rejected"} | used)
    encoded: dict[str, list[Any]] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    judged: dict[str, list[float]] = {"weight": [], "agreement": []}
    dropped = 0
    for index, row in enumerate(rows):
        record = str(row.get("record_id", index))
        prompt = encode_prompt(tokenizer, row["prompt"])
        chosen, rejected = (
            encode_completion(tokenizer, completion_text(row[side], record))
            for side in ("chosen", "rejected")
        )
        if len(prompt) + max(len(chosen), len(rejected)) > max_length:
            dropped += 1
            continue
        for name, ids in zip(encoded, (prompt, chosen, rejected), strict=True):
            encoded[name].append(ids)
        for name, values in judged.items():
            values.append(row[name] if name in used else 1.0)
    if weights and judged["weight"] and not any(judged["weight"]):
        raise DataError("All comparisons have weight 0; set dpo.use_weights to false or check the weights.")
    if used:
        encoded |= {"weight": scaled_weights(judged["weight"]), "agreement": judged["agreement"]}
    return EncodedRows(Dataset.from_dict(encoded), dropped, dropped)


def encode_unpaired(rows: Dataset, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> EncodedRows:
    """Good and bad completions as ``prompt_ids``, ``completion_ids``, ``label``: rows that are labelled, or
    the two sides of each comparison; a completion over the limit is left out.

    Raises:
        DataError: a column is missing, or a completion is not one assistant turn.
    """
    labelled = "label" in rows.column_names
    _require(rows, {"prompt", "completion"} if labelled else {"prompt", "chosen", "rejected"})
    encoded: dict[str, list[Any]] = {"prompt_ids": [], "completion_ids": [], "label": []}
    dropped = 0
    for index, row in enumerate(rows):
        record = str(row.get("record_id", index))
        prompt = encode_prompt(tokenizer, row["prompt"])
        sides = (
            [(row["completion"], bool(row["label"]))]
            if labelled
            else [(row["chosen"], True), (row["rejected"], False)]
        )
        for completion, label in sides:
            ids = encode_completion(tokenizer, completion_text(completion, record))
            if len(prompt) + len(ids) > max_length:
                dropped += 1
                continue
            for name, value in zip(encoded, (prompt, ids, label), strict=True):
                encoded[name].append(value)
    return EncodedRows(Dataset.from_dict(encoded), dropped, dropped)


class PairedTrainer(OrderedTrainer, DPOTrainer):
    """DPO on rows that are encoded already, and with what annotators make of them where rows say so."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        columns = ["prompt_ids", "chosen_ids", "rejected_ids", "weight", "agreement"]
        self._signature_columns = columns  # type: ignore[assignment]

    def _compute_loss(
        self, model: PreTrainedModel, inputs: dict[str, torch.Tensor], return_outputs: bool
    ) -> Any:
        if "weight" not in inputs:
            return super()._compute_loss(model, inputs, return_outputs)
        # TRL averages over pairs before a weight could be applied.
        weight, agreement = inputs.pop("weight"), inputs.pop("agreement")
        mask = inputs["completion_mask"]
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            labels=inputs["input_ids"].masked_fill(mask == 0, -100),
            use_cache=False,
            fused_lm_head=True,
        )
        chosen, rejected = outputs.log_probs[:, -(mask.shape[1] - 1) :].sum(dim=1).chunk(2)
        reference = model if self.ref_model is None else self.ref_model
        reference_chosen, reference_rejected = self.compute_ref_log_probs(reference, inputs)
        rewards = self.beta * (chosen - reference_chosen), self.beta * (rejected - reference_rejected)
        difference = rewards[0] - rewards[1]
        expected = -agreement * logsigmoid(difference) - (1 - agreement) * logsigmoid(-difference)
        figures = self._metrics["train" if model.training else "eval"]
        for name, values in {
            "rewards/chosen": rewards[0],
            "rewards/rejected": rewards[1],
            "rewards/margins": difference,
            "rewards/accuracies": (difference > 0).float(),
            "logps/chosen": chosen,
            "logps/rejected": rejected,
        }.items():
            figures[name].append(self.accelerator.gather(values.detach()).mean().item())
        loss = (weight * expected).mean()
        return (loss, outputs) if return_outputs else loss


class JudgedCollator(DataCollatorForPreference):
    """TRL's collator with the weights and agreements of pairs that have them."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().torch_call(examples)
        for name in {"weight", "agreement"} & examples[0].keys():
            batch[name] = torch.tensor([example[name] for example in examples], dtype=torch.float)
        return batch


class UnpairedTrainer(OrderedTrainer, KTOTrainer):
    """KTO on rows that are encoded already."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


class MismatchingCollator(DataCollatorForUnpairedPreference):
    """TRL's collator, which also gives each prompt the completion of the batch's previous row: the mismatched
    pairs that KTO's KL term is estimated from (arXiv:2402.01306, section 4.1).

    Paired here and not once before training, the mismatched completions are those of the batch in any row
    order.
    """

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        completions = [example["completion_ids"] for example in examples]
        shifted = [completions[-1], *completions[:-1]]
        return super().torch_call(
            [
                {**example, "KL_completion_ids": other}
                for example, other in zip(examples, shifted, strict=True)
            ]
        )


def _trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    settings: ComparisonSettings,
    run: PolicyRun,
    work: Path,
    *,
    steps: int,
    limit: int,
) -> PairedTrainer | UnpairedTrainer:
    trainer = TrainerSettings(
        optimizer=settings.optimizer,
        max_steps=steps,
        batch_size=settings.batch_size,
        micro_batch_size=settings.micro_batch_size,
        max_length=limit,
        length_grouping=False,
        precision=settings.precision,
        gradient_checkpointing=settings.gradient_checkpointing,
        logging_steps=settings.logging_steps,
    )
    given: dict[str, Any] = {
        "work": work,
        "seed": settings.seed % 2**32,
        "model": model,
        "beta": settings.beta,
        "max_length": None,  # rows over the limit are left out and counted
        "disable_dropout": True,
    }
    shared: dict[str, Any] = {
        "train_dataset": rows,
        "processing_class": tokenizer,
        "callbacks": [run.curves, run],
        "peft_config": lora_config(settings.lora, "policy") if settings.lora else None,
    }
    if isinstance(settings, DPOSettings):
        paired = training_arguments(
            DPOConfig, trainer, loss_type=[settings.loss], label_smoothing=settings.label_smoothing, **given
        )
        choose_attention(model, paired, limit)
        collator = JudgedCollator(pad_token_id=tokenizer.pad_token_id)
        return PairedTrainer(model, args=paired, data_collator=collator, **shared)
    unpaired = training_arguments(
        KTOConfig,
        trainer,
        loss_type=settings.loss,
        desirable_weight=settings.desirable_weight,
        undesirable_weight=settings.undesirable_weight,
        **given,
    )
    # TRL demands the order that its own pairing needs; ours is made in the collator
    unpaired.train_sampling_strategy = "sequential"
    choose_attention(model, unpaired, limit)
    mismatching = MismatchingCollator(pad_token_id=tokenizer.pad_token_id)
    return UnpairedTrainer(model, args=unpaired, data_collator=mismatching, **shared)


def _of_fold(comparisons: Dataset, fold: int | None, name: str) -> Dataset:
    if fold is not None and len(comparisons) and "fold" in comparisons.column_names:
        kept = [index for index, value in enumerate(comparisons["fold"]) if value == fold]
        comparisons = comparisons.select(kept)
    if not len(comparisons):
        where = "" if fold is None else f" in fold {fold}"
        raise DataError(
            f"There are no training comparisons{where}, which {name} learns from; add a source of "
            "comparisons, or choose ppo, rloo or grpo, which learn from a reward."
        )
    return comparisons


def _require(rows: Dataset, columns: set[str]) -> None:
    if missing := columns - set(rows.column_names):
        raise DataError(f"Comparisons lack the columns {', '.join(sorted(missing))}; prepare the view anew.")


def _renamed(logs: Mapping[str, float]) -> dict[str, float]:
    """TRL's figures. Its implicit rewards keep their names, for no reward model gives them; KTO's KL is of
    mismatched pairs and not the policy's."""
    names = {"kl": "mismatched_kl"}
    return {names.get(name, name): value for name, value in logs.items() if name != "num_tokens"}
