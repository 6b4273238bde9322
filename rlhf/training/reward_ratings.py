"""Reward models from ratings of single answers: least squares on standardised ratings.

The model's output has the mean 0 and the standard deviation 1 of its training ratings, which are kept in the
directory's settings: in that scale it can start a critic. Figures are in the ratings' own unit.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import RewardTrainer

from rlhf.errors import DataError
from rlhf.evaluation.baselines import BagOfWordsRidge
from rlhf.evaluation.regression import regression_figures
from rlhf.models.causal_attention import needs_no_mask
from rlhf.models.length_buckets import right_padded
from rlhf.training.arguments import trained_model
from rlhf.training.processes import Processes
from rlhf.training.reward_task import RewardTask, held_out, rows_of_fold
from rlhf.training.rows import ALONE, EncodedRows, completion_text, encode_ratings, sequence_scores
from rlhf.training.settings import RewardModelSettings
from rlhf.training.supervised_trainer import SupervisedTrainer

logger = logging.getLogger(__name__)

_NAMES = {"dev": "eval", "test": "test"}


class RatingCollator:
    """Sequences padded on the right, their mask, and their standardised ratings."""

    def __init__(self, pad_token_id: int) -> None:
        self._pad_token_id = pad_token_id

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        ids, lengths = right_padded([example["input_ids"] for example in examples], self._pad_token_id)
        return {
            "input_ids": ids,
            "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long(),
            "labels": torch.tensor([example["labels"] for example in examples], dtype=torch.float),
        }


class RatingTrainer(SupervisedTrainer, RewardTrainer):
    """``RewardTrainer`` for its care of adapters, dropout and accumulation, with the loss that transformers
    gives a classifier of ``problem_type="regression"``: the mean squared error."""

    def _prepare_dataset(self, dataset: Dataset, *arguments: Any) -> Dataset:
        return dataset  # encoded already, and not as pairs

    def _set_signature_columns_if_needed(self) -> None:
        # The collator drops the length; the length-grouping sampler reads it.
        self._signature_columns = ["input_ids", "labels", "length"]  # type: ignore[assignment]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        mask = None if needs_no_mask(trained_model(self)) else inputs["attention_mask"]
        outputs = model(**{**inputs, "attention_mask": mask}, use_cache=False)
        with torch.no_grad():
            figures = self._metrics["train" if model.training else "eval"]
            self._total_train_tokens += self.sum_of_processes(inputs["attention_mask"].sum())
            figures["num_tokens"] = [self._total_train_tokens]
            figures["mean_reward"].append(self.mean_of_processes(outputs.logits.mean()))
        return (outputs.loss, outputs) if return_outputs else outputs.loss


def ratings_task(
    ratings: DatasetDict,
    settings: RewardModelSettings,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    fold: int | None,
    processes: Processes = ALONE,
) -> RewardTask:
    """The regression on the ratings of one question; sets the model's ``problem_type``.

    Args:
        ratings: splits ``train``, ``dev``, ``test``; columns ``prompt``, ``completion``, ``rating``, and
            ``fold`` and ``question`` where they are used.
        processes: that share the rows of an evaluation.

    Raises:
        DataError: there are no ratings, those of several questions, or only equal ones.
    """
    ratings = _of_one_question(ratings, settings.rating_question)
    rows = rows_of_fold(
        ratings,
        fold,
        what="ratings",
        remedy="add rows with a reward, or train on comparisons with reward_model.objective pairwise",
    )

    def encode(of: Dataset) -> EncodedRows:
        return encode_ratings(of, tokenizer, max_length=settings.max_length)

    train = encode(rows)
    if train.dropped:
        logger.warning(
            "%d of %d ratings are over reward_model.max_length %d and were left out.",
            train.dropped, len(rows), settings.max_length,
        )  # fmt: skip
    if not len(train.dataset):
        raise DataError(
            f"All of {len(rows)} rated answers are longer than reward_model.max_length; raise the limit."
        )
    values = np.asarray(train.dataset["rating"], dtype=np.float64)
    mean, std = float(values.mean()), float(values.std())
    if std == 0:
        raise DataError(
            f"All {len(values)} training ratings are {mean:g}; a reward model needs answers of different "
            "ratings."
        )
    splits = {split: held_out(ratings, split, encode, what="ratings") for split in _NAMES}

    def figures(current: PreTrainedModel, split: str) -> dict[str, float]:
        rows, name = splits[split], _NAMES[split]
        if rows is None:
            return {}
        scores = np.asarray(
            sequence_scores(
                current, rows.dataset["input_ids"][:], tokenizer.pad_token_id, processes=processes
            ),
            dtype=np.float64,
        )
        actual = np.asarray(rows.dataset["rating"], dtype=np.float64)
        fit = regression_figures(scores * std + mean, actual, intervals=split == "test")
        return {
            **{f"{name}/{figure}": value for figure, value in fit.items()},
            f"{name}/loss": float(((scores - (actual - mean) / std) ** 2).mean()),
            f"{name}/ratings": float(len(actual)),
            f"{name}/reward_mean": float(scores.mean()),
            f"{name}/reward_std": float(scores.std()),
        }

    model.config.problem_type = "regression"
    targets = ((values - mean) / std).tolist()
    return RewardTask(
        train=replace(train, dataset=train.dataset.add_column("labels", targets)),
        trainer=RatingTrainer,
        collator=RatingCollator(tokenizer.pad_token_id),
        figures=figures,
        baselines=lambda: _baselines(rows, ratings),
        record={"rating_mean": mean, "rating_std": std},
    )


def _of_one_question(ratings: DatasetDict, question: str | None) -> DatasetDict:
    columns = {column for rows in ratings.values() for column in rows.column_names}
    if "question" not in columns:
        return ratings
    asked = sorted({str(value) for rows in ratings.values() for value in rows.unique("question")})
    if question is None and len(asked) > 1:
        raise DataError(
            f"The ratings answer several questions ({', '.join(asked)}); name one in "
            "reward_model.rating_question."
        )
    if question is not None and asked and question not in asked:
        raise DataError(
            f"No rating answers the question '{question}', only {', '.join(asked)}; correct "
            "reward_model.rating_question."
        )
    if question is None:
        return ratings
    return DatasetDict(
        {
            split: rows.select([i for i, value in enumerate(rows["question"]) if value == question])
            for split, rows in ratings.items()
        }
    )


def _baselines(train: Dataset, ratings: DatasetDict) -> dict[str, float]:
    if "test" not in ratings or not len(ratings["test"]):
        return {}
    test = ratings["test"]
    predictions = {"mean": np.full(len(test), np.mean(train["rating"]))}
    try:
        words = BagOfWordsRidge.fit(_texts(train), train["rating"][:])
        predictions["bag_of_words"] = words.predict(_texts(test))
    except DataError as error:
        logger.warning("The figures of a bag of words are left out: %s", error)
    return {
        f"test/{name}_{figure}": value
        for name, predicted in predictions.items()
        for figure, value in regression_figures(predicted, test["rating"][:], intervals=True).items()
    }


def _texts(rows: Dataset) -> Sequence[str]:
    return [
        completion_text(row["completion"], str(row.get("record_id", index))) for index, row in enumerate(rows)
    ]
