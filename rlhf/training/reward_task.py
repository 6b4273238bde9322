"""What differs between the objectives of a reward model: its rows, its trainer, and its figures."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel

from rlhf.errors import DataError
from rlhf.training.rows import EncodedRows
from rlhf.training.supervised_trainer import SupervisedTrainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RewardTask:
    """One objective on one fold of its data."""

    train: EncodedRows
    """Rows in the columns that the trainer and its collator read, and ``length``."""
    trainer: Callable[..., SupervisedTrainer]
    collator: Callable[[list[dict[str, Any]]], dict[str, Any]]
    figures: Callable[[PreTrainedModel, str], dict[str, float]]
    """Figures of a model on the split ``dev`` or ``test``; none where it is empty."""
    baselines: Callable[[], dict[str, float]]
    """Figures on the test split of what the model has to beat."""
    record: Mapping[str, float | str]
    """What a user of the model has to know beside its settings."""


def rows_of_fold(view: DatasetDict, fold: int | None, *, what: str, remedy: str) -> Dataset:
    """Training rows of one fold, or all.

    Args:
        what: plural name of the rows, for errors.
        remedy: what to do when there are none.

    Raises:
        DataError: there are none, or they have no fold.
    """
    rows = view["train"] if "train" in view else Dataset.from_dict({})
    if fold is not None and len(rows):
        if "fold" not in rows.column_names:
            raise DataError(
                f"{what.capitalize()} have no fold column; prepare the view anew or train on all rows."
            )
        rows = rows.select([index for index, value in enumerate(rows["fold"]) if value == fold])
    if not len(rows):
        where = "" if fold is None else f" in fold {fold}"
        raise DataError(f"There are no training {what}{where}; {remedy}.")
    return rows


def held_out(
    view: DatasetDict, split: str, encode: Callable[[Dataset], EncodedRows], *, what: str
) -> EncodedRows | None:
    """The encoded rows of a split, None where there are none."""
    if split not in view or not len(view[split]):
        logger.warning("There are no %s in the %s split; its figures are left out.", what, split)
        return None
    encoded = encode(view[split])
    return encoded if len(encoded.dataset) else None
