"""Rows of feedback as token ids: what the trainers learn from, what was too long, and batches for evaluation.

Tokenising here rather than in TRL makes the ids of training those of rollouts and scoring by construction
(``rlhf.models.chat``), counts what TRL cuts or drops in silence, and is several times faster.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.errors import DataError
from rlhf.models.chat import encode_completion, encode_conversation, encode_prompt
from rlhf.models.length_buckets import length_buckets, right_padded
from rlhf.training.processes import OneProcess, Processes, own_rows

IGNORED = -100
"""Label of a token that is not learnt."""
ALONE: Processes = OneProcess()
"""Who computes a figure by itself."""


@dataclass(frozen=True)
class EncodedRows:
    """Tokenised rows, and how many were cut or left out for their length."""

    dataset: Dataset
    overlong: int
    """Rows (pairs) longer than the limit."""
    dropped: int
    """Rows (pairs) left out: nothing to learn remained, or settings said so."""

    @property
    def counts(self) -> dict[str, float]:
        """Figures for the model's metrics."""
        return {
            "data/rows": float(len(self.dataset)),
            "data/overlong": float(self.overlong),
            "data/dropped": float(self.dropped),
        }


def completion_text(completion: str | Sequence[Mapping[str, str]], record: str) -> str:
    """The text of a completion, which is a string or a single assistant turn.

    Raises:
        DataError: there are several turns, or one that is not the assistant's.
    """
    if isinstance(completion, str):
        return completion
    if len(completion) != 1 or completion[0]["role"] != "assistant":
        roles = ", ".join(m["role"] for m in completion) or "none"
        raise DataError(
            f"Record {record}: a completion must be one assistant turn but has the turns: {roles}; move all "
            "but the last turn into the prompt."
        )
    return completion[0]["content"]


def encode_demonstrations(
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    completion_only: bool = True,
    drop_overlong: bool = False,
    weights: bool = False,
) -> EncodedRows:
    """Demonstrations (``prompt``/``completion``, each text or chat turns, or ``text``) with their labels.

    Returns:
        Columns ``input_ids``, ``labels`` (``-100`` where nothing is learnt) and ``length``, and with
        ``weights`` the rows' ``weight``, scaled to a mean of one.

    Raises:
        DataError: the columns are others, or a completion is not one assistant turn.
    """
    columns = set(rows.column_names)
    if weights and "weight" not in columns:
        raise DataError("Demonstrations lack the column weight; prepare the view anew or turn weights off.")
    if not ({"prompt", "completion"} <= columns or "text" in columns):
        raise DataError(
            "Demonstrations need the columns prompt and completion, or text, but have "
            f"{', '.join(sorted(columns))}; prepare the view anew."
        )
    encoded: dict[str, list[Any]] = {"input_ids": [], "labels": [], "length": []}
    if weights:
        encoded["weight"] = []
    overlong = dropped = 0
    for index, row in enumerate(rows):
        if "completion" in columns:
            prompt = encode_prompt(tokenizer, row["prompt"]) if row["prompt"] else []
            text = completion_text(row["completion"], str(row.get("record_id", index)))
            ids = prompt + encode_completion(tokenizer, text)
        else:
            prompt, ids = [], encode_text(tokenizer, row["text"])
        labels = [IGNORED] * len(prompt) + ids[len(prompt) :] if completion_only else list(ids)
        if len(ids) > max_length:
            overlong += 1
            ids, labels = ids[:max_length], labels[:max_length]
            # The first token is predicted from nothing and counts for no loss.
            if drop_overlong or all(label == IGNORED for label in labels[1:]):
                dropped += 1
                continue
        encoded["input_ids"].append(ids)
        encoded["labels"].append(labels)
        encoded["length"].append(len(ids))
        if weights:
            encoded["weight"].append(row["weight"])
    if weights:
        encoded["weight"] = scaled_weights(encoded["weight"])
    return EncodedRows(Dataset.from_dict(encoded), overlong, dropped)


def scaled_weights(weights: list[float]) -> list[float]:
    """Weights with a mean of one, so that the learning rate keeps its meaning."""
    total = sum(weights)
    return [weight * len(weights) / total for weight in weights] if total else weights


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a whole text, closed by EOS once."""
    ids = list(tokenizer(text)["input_ids"])
    return ids if ids and ids[-1] == tokenizer.eos_token_id else [*ids, tokenizer.eos_token_id]


def encode_pairs(
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    weights: bool = False,
    margins: bool = False,
    agreements: bool = False,
) -> EncodedRows:
    """Comparisons (``prompt``/``chosen``/``rejected``, each text or chat turns) as pairs of token ids.

    A pair with a side over ``max_length`` is left out: a cut answer would be judged without its end.

    Returns:
        Columns ``chosen_ids``, ``rejected_ids``, ``weight`` (scaled to a mean of one), ``margin``,
        ``agreement`` and ``length`` (of the longer side).

    Raises:
        DataError: a column is missing, or a side is not one assistant turn.
    """
    needed = {"prompt", "chosen", "rejected"} | ({"weight"} if weights else set())
    needed |= {"margin"} if margins else set()
    needed |= {"agreement"} if agreements else set()
    if missing := needed - set(rows.column_names):
        raise DataError(f"Comparisons lack the columns {', '.join(sorted(missing))}; prepare the view anew.")
    names = ("chosen_ids", "rejected_ids", "weight", "margin", "agreement", "length")
    encoded: dict[str, list[Any]] = {name: [] for name in names}
    overlong = 0
    for index, row in enumerate(rows):
        record = str(row.get("record_id", index))
        sides = [
            encode_conversation(tokenizer, row["prompt"], completion_text(row[side], record))
            for side in ("chosen", "rejected")
        ]
        length = max(map(len, sides))
        if length > max_length:
            overlong += 1
            continue
        weight, margin = row["weight"] if weights else 1.0, row["margin"] if margins else 0.0
        values = (*sides, weight, margin, row["agreement"] if agreements else 1.0, length)
        for name, value in zip(names, values, strict=True):
            encoded[name].append(value)
    if weights:
        encoded["weight"] = scaled_weights(encoded["weight"])
    return EncodedRows(Dataset.from_dict(encoded), overlong, overlong)


def encode_ratings(rows: Dataset, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> EncodedRows:
    """Ratings (``prompt``, text or chat turns, empty for a whole text; ``completion``; ``rating``) as token
    ids.

    A row over ``max_length`` is left out: a cut answer would be judged without its end.

    Returns:
        Columns ``input_ids``, ``rating`` (in the data's units) and ``length``.

    Raises:
        DataError: a column is missing, or a completion is not one assistant turn.
    """
    if missing := {"prompt", "completion", "rating"} - set(rows.column_names):
        raise DataError(f"Ratings lack the columns {', '.join(sorted(missing))}; prepare the view anew.")
    encoded: dict[str, list[Any]] = {"input_ids": [], "rating": [], "length": []}
    overlong = 0
    for index, row in enumerate(rows):
        text = completion_text(row["completion"], str(row.get("record_id", index)))
        ids = encode_conversation(tokenizer, row["prompt"] or "", text)
        if len(ids) > max_length:
            overlong += 1
            continue
        for name, value in zip(encoded, (ids, float(row["rating"]), len(ids)), strict=True):
            encoded[name].append(value)
    return EncodedRows(Dataset.from_dict(encoded), overlong, overlong)


@torch.inference_mode()
def token_loss(
    model: PreTrainedModel,
    rows: Dataset,
    pad_token_id: int,
    *,
    token_budget: int = 8192,
    processes: Processes = ALONE,
) -> tuple[float, int]:
    """Mean negative log-likelihood of the labelled tokens in nats, and their number; every token counts
    once. Each of ``processes`` takes its share of the rows, and all get the figures of all."""
    if processes.count > 1:
        rows = rows.select(own_rows(len(rows), processes))
    total, count = 0.0, 0
    device = next(model.parameters()).device
    ids, labels = rows["input_ids"][:], rows["labels"][:]
    for bucket in length_buckets(rows["length"][:], token_budget):
        inputs, mask = _masked([ids[i] for i in bucket], pad_token_id, device)
        targets, _ = right_padded([labels[i] for i in bucket], IGNORED)
        wanted = targets.to(device)[:, 1:]
        logits = model(input_ids=inputs, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        total += torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORED, reduction="sum"
        ).item()
        count += int((wanted != IGNORED).sum())
    total, count = processes.sum(torch.tensor([total, count], dtype=torch.float64)).tolist()
    return (total / count if count else 0.0), int(count)


def pair_scores(
    model: PreTrainedModel,
    pairs: Dataset,
    pad_token_id: int,
    *,
    token_budget: int = 16384,
    processes: Processes = ALONE,
) -> tuple[list[float], list[float]]:
    """Rewards of the chosen and of the rejected side of each pair, in order."""
    ids = pairs["chosen_ids"][:] + pairs["rejected_ids"][:]
    scores = sequence_scores(model, ids, pad_token_id, token_budget=token_budget, processes=processes)
    return scores[: len(pairs)], scores[len(pairs) :]


@torch.inference_mode()
def sequence_scores(
    model: PreTrainedModel,
    ids: Sequence[Sequence[int]],
    pad_token_id: int,
    *,
    token_budget: int = 16384,
    processes: Processes = ALONE,
) -> list[float]:
    """Rewards of token sequences, in order. Each of ``processes`` takes its share, and all get all."""
    device = next(model.parameters()).device
    whole = len(ids)
    ids = [ids[row] for row in own_rows(whole, processes)]
    scores = [0.0] * len(ids)
    for bucket in length_buckets([len(row) for row in ids], token_budget):
        inputs, mask = _masked([ids[i] for i in bucket], pad_token_id, device)
        logits = model(input_ids=inputs, attention_mask=mask, use_cache=False).logits
        for index, score in zip(bucket, logits.squeeze(-1).float().tolist(), strict=True):
            scores[index] = score
    return processes.gather(scores, whole)


def _masked(
    sequences: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    ids, lengths = right_padded(sequences, pad_id)
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return ids.to(device), mask.to(device)
