"""A reward model from comparisons: TRL's ``RewardTrainer`` with weights, margins and honest figures. Or from
ratings, which are ``rlhf.training.reward_ratings``'s business.

Judged on the test split beside two baselines that know nothing of meaning. One of three is trained at a time:
which fold and which seed is the caller's.
"""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from torch import nn
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed
from trl import RewardConfig, RewardTrainer
from trl.trainer.reward_trainer import DataCollatorForPreference

from rlhf.errors import DataError
from rlhf.evaluation.baselines import BagOfWords, Pair, longer_wins_accuracy
from rlhf.evaluation.intervals import wilson_interval
from rlhf.models.causal_attention import needs_no_mask
from rlhf.models.directory import ModelDirectory
from rlhf.models.loading import load_reward_model, load_tokenizer, require_base
from rlhf.models.saving import merge_adapter, require_new, save_model
from rlhf.models.templates import install_template
from rlhf.models.tokenizer import ensure_pad_token, fit_model
from rlhf.tracking import MetricSink, NullSink, RecordingSink
from rlhf.training.arguments import (
    autocast_like,
    base_record,
    check_length,
    choose_attention,
    quantization_options,
    refuse_added_tokens,
    trained_model,
    training_arguments,
)
from rlhf.training.callbacks import DevEvaluation, SinkCallback
from rlhf.training.lora import lora_config
from rlhf.training.processes import Processes, joined_processes
from rlhf.training.reward_ratings import ratings_task
from rlhf.training.reward_task import RewardTask, held_out, rows_of_fold
from rlhf.training.rows import ALONE, completion_text, encode_pairs, pair_scores
from rlhf.training.settings import RewardModelSettings
from rlhf.training.supervised_launch import (
    SupervisedJob,
    launch_supervised,
    saved_by_first,
    starts_processes,
)
from rlhf.training.supervised_run import checkpoint_plan, run_trainer
from rlhf.training.supervised_trainer import SharedWeights, SupervisedTrainer, sharing_rows

logger = logging.getLogger(__name__)


def preference_loss(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    *,
    weight: torch.Tensor,
    margin: torch.Tensor,
    center_coefficient: float | None,
    probability: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean of ``weight · (−p·log σ(Δ) − (1 − p)·log σ(−Δ) + c·(chosen + rejected)²)`` with
    ``Δ = chosen − rejected − margin``; all shapes (pairs,).

    ``probability`` p is that of the chosen answer being the better one, 1 by default. The likelihood is
    Bradley & Terry's (1952), the margin Llama 2's (arXiv:2307.09288, eq. 2), the centring Eisenstein et
    al.'s (arXiv:2312.09244, eq. 2). A pair of weight 0 has no part in it.
    """
    difference = chosen - rejected - margin
    terms = -logsigmoid(difference)
    if probability is not None:
        terms = probability * terms - (1 - probability) * logsigmoid(-difference)
    if center_coefficient is not None:
        terms = terms + center_coefficient * (chosen + rejected) ** 2
    return (weight * terms).mean()


class PreferenceCollator(DataCollatorForPreference):
    """TRL's collator, which knows margins, with weights and agreements."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().torch_call(examples)
        for column in ("weight", "agreement"):
            batch[column] = torch.tensor([example[column] for example in examples], dtype=torch.float)
        return batch


class PreferenceTrainer(SupervisedTrainer, RewardTrainer):
    """``RewardTrainer`` with a weight and an agreement per pair.

    The loss is written out because TRL's hands every column to the model and averages before a weight could
    be applied; with weights and agreements of one and margins of zero both are equal.
    """

    def _set_signature_columns_if_needed(self) -> None:
        # The collator drops the length; the length-grouping sampler reads it.
        self._signature_columns = [  # type: ignore[assignment]
            "chosen_ids",
            "rejected_ids",
            "margin",
            "weight",
            "agreement",
            "length",
        ]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        # Without a mask attention is on its fast causal path; the score is read at the last token but pads.
        mask = None if needs_no_mask(trained_model(self)) else inputs["attention_mask"]
        outputs = model(input_ids=inputs["input_ids"], attention_mask=mask, use_cache=False)
        chosen, rejected = outputs.logits.squeeze(-1).float().chunk(2)
        loss = preference_loss(
            chosen,
            rejected,
            weight=inputs["weight"],
            margin=inputs["margin"],
            center_coefficient=cast(RewardConfig, self.args).center_rewards_coefficient,
            probability=inputs["agreement"],
        )
        with torch.no_grad():
            figures = self._metrics["train" if model.training else "eval"]
            self._total_train_tokens += self.sum_of_processes(inputs["attention_mask"].sum())
            figures["num_tokens"] = [self._total_train_tokens]
            figures["accuracy"].append(self.mean_of_processes((chosen > rejected).float().mean()))
            figures["reward_gap"].append(self.mean_of_processes((chosen - rejected).mean()))
            figures["mean_reward"].append(self.mean_of_processes(outputs.logits.float().mean()))
        return (loss, outputs) if return_outputs else loss


class RewardModelJob(SupervisedJob):
    """The arguments of :func:`train_reward_model`."""

    NAME: ClassVar[str] = "Reward model"
    SECTION: ClassVar[str] = "reward_model"
    MEMORY: ClassVar[str] = "micro_batch_size"

    settings: RewardModelSettings
    """Of the training."""
    base: Path
    """Directory of the model to start from."""
    fold: int | None
    """Of the rows to train on."""
    prefix: str
    """Of the metrics' names."""

    def run(self, sink: MetricSink | None) -> str:
        """The reward model's digest."""
        return train_reward_model(
            self.base,
            self.dataset(),
            self.settings,
            self.output_dir,
            fold=self.fold,
            seed=self.seed,
            sink=sink,
            prefix=self.prefix,
            checkpoints=self.checkpoints,
        ).digest


def train_reward_model(
    base: Path,
    judgements: DatasetDict,
    settings: RewardModelSettings,
    output_dir: Path,
    *,
    fold: int | None = None,
    seed: int = 0,
    sink: MetricSink | None = None,
    prefix: str = "reward/",
    checkpoints: Path | None = None,
) -> ModelDirectory:
    """Train a scalar reward model on the comparisons of one fold, or on its ratings; on several processes as
    :func:`rlhf.training.sft.train_sft`.

    Args:
        base: directory of a decoder (the SFT policy, as a rule) or an encoder, with its tokenizer.
        judgements: splits ``train``, ``dev``, ``test``. For ``objective: pairwise`` the columns ``prompt``,
            ``chosen``, ``rejected``, and ``weight``, ``margin``, ``agreement`` where they are used; for
            ``regression`` ``prompt``, ``completion``, ``rating`` and, if there are several, ``question``.
            ``fold`` with a fold.
        fold: train on the rows of this fold; all of them by default. Dev and test are never split by fold.
        seed: of the score head and row order.
        prefix: of the metrics' names, such as ``reward/proxy/``.
        checkpoints: as :func:`rlhf.training.sft.train_sft` has them.

    Returns:
        The sealed reward model (or adapter). Metrics of pairs: ``test/accuracy`` with its Wilson 95 %
        interval ``test/accuracy_low`` and ``…_high``, ``test/longer_wins_accuracy``,
        ``test/bag_of_words_accuracy``, ``eval/accuracy``. Metrics of ratings, in their unit:
        ``test/pearson``, ``test/spearman``, ``test/r2`` and ``test/rmse`` with bootstrap intervals, the same
        with ``test/mean_…`` and ``test/bag_of_words_…`` for the baselines, ``eval/pearson`` and so on. Of
        both: ``eval/loss``, ``eval/reward_mean`` and ``eval/reward_std`` on dev, ``train/…``, ``data/…``. A
        split without rows has no figures. The outputs of a model of ratings are standardised; ``rating_mean``
        and ``rating_std`` in its settings lead back.

    Raises:
        ConfigError: settings that contradict the base model or the machine.
        DataError: nothing to train on, or columns are missing.
        ModelError: the base is absent or an adapter, or ``output_dir`` is taken.
        TrainingError: the loss is not finite.
        InterruptedRunError: a stop was requested (``rlhf.training.interruption``).
    """
    require_new(output_dir)
    base = require_base(base, "reward model's base")
    if starts_processes(settings):
        return launch_supervised(
            RewardModelJob, judgements, settings,
            base=base, output_dir=output_dir, fold=fold, seed=seed, prefix=prefix, checkpoints=checkpoints,
            sink=sink,
        )  # fmt: skip
    with joined_processes() as processes:
        return _train(
            base, judgements, settings, output_dir,
            fold=fold, seed=seed, sink=sink, prefix=prefix, checkpoints=checkpoints, processes=processes,
        )  # fmt: skip


def _train(
    base: Path,
    judgements: DatasetDict,
    settings: RewardModelSettings,
    output_dir: Path,
    *,
    fold: int | None,
    seed: int,
    sink: MetricSink | None,
    prefix: str,
    checkpoints: Path | None,
    processes: Processes,
) -> ModelDirectory:
    options = quantization_options(settings.lora)
    tokenizer = load_tokenizer(base)
    added = install_template(tokenizer, settings.template) + ensure_pad_token(tokenizer, settings.pad_token)
    refuse_added_tokens(added, settings.lora, "reward_model")
    set_seed(seed)
    model = load_reward_model(base, **options)
    fit_model(model, tokenizer)
    check_length(settings.max_length, model.config, "reward_model")

    choose_task = ratings_task if settings.objective == "regression" else pairs_task
    judging = sharing_rows(processes, settings.sharding)
    task = choose_task(judgements, settings, model, tokenizer, fold, judging)
    baselines = task.baselines()  # before training: what fails here costs nothing

    recording = RecordingSink((sink if processes.rank == 0 else None) or NullSink())
    record: dict[str, Any] = {
        "reward_model": settings.model_dump(mode="json"),
        "seed": seed,
        "fold": fold,
        "base": base_record(base),
        **task.record,
    }
    recording.log_params(
        {f"{prefix}seed": seed, f"{prefix}fold": fold}
        | {f"{prefix}{key}": value for key, value in record["reward_model"].items()}
    )
    with tempfile.TemporaryDirectory(prefix="reward-") as work:
        arguments = training_arguments(
            RewardConfig,
            settings,
            work=Path(work) / "trainer",
            seed=seed,
            model=model,
            max_length=None,  # pairs over the limit are left out and counted above
            center_rewards_coefficient=settings.center_rewards_coefficient,
            disable_dropout=settings.disable_dropout,
        )

        choose_attention(model, arguments, settings.max_length, masked=not needs_no_mask(model))

        def evaluate(current: PreTrainedModel, split: str) -> dict[str, float]:
            with autocast_like(arguments):
                return task.figures(current, split)

        dev_evaluation = DevEvaluation(
            partial(evaluate, split="dev"), times=settings.evaluations, sink=recording, prefix=prefix
        )
        shared = SharedWeights(model, processes, "reward_model") if settings.sharding == "fsdp" else None
        trainer = task.trainer(
            model,
            arguments,
            train_dataset=task.train.dataset,
            processing_class=tokenizer,
            data_collator=task.collator,
            callbacks=[SinkCallback(recording, prefix), dev_evaluation],
            peft_config=lora_config(settings.lora, "reward") if settings.lora else None,
        )
        plan = checkpoint_plan(
            checkpoints, settings, __name__, stage="reward_model", seed=seed, base=record["base"]
        )
        if shared is not None:
            shared.prepare(trainer)
        metrics = run_trainer(
            trainer,
            settings,
            plan.of_rows(task.train.dataset) if plan else None,
            processes=processes,
            sink=recording,
            evaluation=dev_evaluation,
        )
        metrics |= task.train.counts | dev_evaluation.latest
        metrics |= evaluate(trained_model(trainer).eval(), "test") | baselines
        trained = trained_model(trainer) if shared is None else shared.gathered()
        recording.log_metrics(
            {prefix + name: value for name, value in metrics.items() if name.startswith("test/")},
            int(metrics["train/steps"]),
        )

        def save() -> ModelDirectory:
            if settings.lora is None:
                return save_model(
                    trained, tokenizer, output_dir,
                    kind="reward-model", settings=record, metrics=metrics, curves=recording.curves,
                )  # fmt: skip
            adapter = save_model(
                trained, tokenizer, Path(work) / "adapter" if settings.lora.merge else output_dir,
                kind="adapter", settings=record, metrics=metrics, curves=recording.curves,
            )  # fmt: skip
            return merge_adapter(adapter, base, output_dir) if settings.lora.merge else adapter

        return saved_by_first(processes, save)


def pairs_task(
    comparisons: DatasetDict,
    settings: RewardModelSettings,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    fold: int | None,
    processes: Processes = ALONE,
) -> RewardTask:
    """The likelihood of the comparisons.

    Args:
        processes: that share the rows of an evaluation.

    Raises:
        DataError: nothing to train on, or columns are missing.
    """
    rows = rows_of_fold(
        comparisons,
        fold,
        what="comparisons",
        remedy="add comparisons, lower the number of folds, or, where the feedback is rewards of single "
        "answers, set reward_model.objective to regression",
    )
    train = encode_pairs(
        rows,
        tokenizer,
        max_length=settings.max_length,
        weights=settings.use_weights,
        margins=settings.use_margins,
        agreements=settings.soft_labels,
    )
    if train.dropped:
        logger.warning(
            "%d of %d pairs have a side over reward_model.max_length %d and were left out.",
            train.dropped, len(rows), settings.max_length,
        )  # fmt: skip
    if not len(train.dataset) or (settings.use_weights and not any(train.dataset["weight"])):
        raise DataError(
            f"None of {len(rows)} training pairs can be used ({train.dropped} are longer than "
            "reward_model.max_length, the rest have weight 0); raise the limit or check the weights."
        )
    splits = {
        split: held_out(
            comparisons,
            split,
            lambda of: encode_pairs(of, tokenizer, max_length=settings.max_length),
            what="comparisons",
        )
        for split in ("dev", "test")
    }

    def figures(current: PreTrainedModel, split: str) -> dict[str, float]:
        pairs = splits[split]
        if pairs is None:
            return {}
        scores = pair_scores(current, pairs.dataset, tokenizer.pad_token_id, processes=processes)
        return _figures(*scores, "eval" if split == "dev" else "test")

    return RewardTask(
        train=train,
        trainer=PreferenceTrainer,
        collator=PreferenceCollator(pad_token_id=tokenizer.pad_token_id),
        figures=figures,
        baselines=lambda: _baselines(rows, comparisons),
        record={},
    )


def _figures(chosen: Sequence[float], rejected: Sequence[float], name: str) -> dict[str, float]:
    first, second = np.asarray(chosen), np.asarray(rejected)
    right = int((first > second).sum())
    interval = wilson_interval(right, len(first))
    rewards = np.concatenate([first, second])
    return {
        f"{name}/accuracy": right / len(first),
        f"{name}/accuracy_low": interval.low,
        f"{name}/accuracy_high": interval.high,
        f"{name}/loss": float(np.logaddexp(0.0, second - first).mean()),
        f"{name}/pairs": float(len(first)),
        f"{name}/reward_mean": float(rewards.mean()),
        f"{name}/reward_std": float(rewards.std()),
    }


def _baselines(train: Dataset, comparisons: DatasetDict) -> dict[str, float]:
    if "test" not in comparisons or not len(comparisons["test"]):
        return {}
    test = _texts(comparisons["test"])
    figures = {"test/longer_wins_accuracy": longer_wins_accuracy(test)}
    try:
        words = BagOfWords.fit(_texts(train))
    except DataError as error:
        logger.warning("The figures of a bag of words are left out: %s", error)
        return figures
    return {**figures, "test/bag_of_words_accuracy": words.accuracy(test)}


def _texts(rows: Dataset) -> list[Pair]:
    def text(row: Mapping[str, Any], side: str, index: int) -> str:
        return completion_text(row[side], str(row.get("record_id", index)))

    return [(text(row, "chosen", i), text(row, "rejected", i)) for i, row in enumerate(rows)]
