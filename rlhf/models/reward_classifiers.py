"""Rewards that are sequence classifiers: scalar reward models, and one label of any text classifier.

Each has a tokenizer of its own and batches by a budget of tokens. Training them is elsewhere.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlhf.errors import ConfigError, ModelError
from rlhf.models.chat import Prompt, encode_conversation
from rlhf.models.directory import model_identity
from rlhf.models.length_buckets import length_buckets, right_padded
from rlhf.models.reward_identity import identity_of
from rlhf.models.reward_protocol import checked_scores, joined_text

logger = logging.getLogger(__name__)


class RewardModelReward:
    """The scalar head of a reward model, over the conversation as the model's own tokenizer renders it.

    Chats go through its chat template with the completion as the assistant's turn; plain text is prompt
    followed by completion. Both end with EOS, whose position a decoder's score is read from.

    Args:
        path: directory of a sequence classifier with one output.
        token_budget: greatest number of padded tokens in one forward pass.
        max_length: longest conversation in tokens (the model's positions by default); of longer ones the
            end is kept, and the token that every text begins with.

    Raises:
        ModelError: not a reward model, or chats are scored without a chat template.
        TrainingError: a score is not finite.
    """

    shardable = True

    def __init__(
        self, path: Path | str, *, token_budget: int = 16_384, max_length: int | None = None
    ) -> None:
        self._model, self._tokenizer = load_sequence_classifier(path)
        if self._model.config.num_labels != 1:
            raise ModelError(
                f"{path} has {self._model.config.num_labels} outputs, a reward model has one; use a "
                "'classifier' reward with a label instead."
            )
        self._path = path
        self._token_budget = token_budget
        self._max_length = max_length or _positions(self._model)
        self.truncated = 0
        """Conversations so far that were longer than ``max_length``."""

    @property
    def identity(self) -> str:
        """What its scores follow from."""
        return identity_of(self, model=model_identity(self._path), max_length=self._max_length)

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        encoded = [
            encode_conversation(self._tokenizer, p, c) for p, c in zip(prompts, completions, strict=True)
        ]
        name = f"the reward model {self._path}"
        kept, cut = fitted(encoded, self._max_length, self._tokenizer)
        self.truncated = _counted(self.truncated, cut, self._max_length, name)
        scores = classifier_logits(self._model, kept, self._token_budget)[:, 0].tolist()
        return checked_scores(scores, prompts, name=name)


class ClassifierReward:
    """The score that a text classifier gives to one label of prompt + completion, read as plain text.

    Args:
        path: directory or hub repository of the classifier.
        revision: commit, tag or branch of a hub repository.
        output: the label's logit, or its probability as the text-classification pipeline gives it: labels
            that exclude each other share one, those of a multi-label model (or a single one) have their own.

    Raises:
        ConfigError: the model has no such label.
        TrainingError: a score is not finite.
    """

    shardable = True

    def __init__(
        self,
        path: Path | str,
        *,
        label: str,
        revision: str | None = None,
        output: Literal["logit", "probability"] = "logit",
        token_budget: int = 16_384,
        max_length: int | None = None,
    ) -> None:
        self._model, self._tokenizer = load_sequence_classifier(path, revision)
        names = self._model.config.id2label or {}
        labels = {str(name): int(index) for index, name in names.items()}
        if label not in labels:
            raise ConfigError(
                f"The classifier {path} has no label '{label}'; it has {', '.join(sorted(labels))}."
            )
        self._path = path
        self._label, self._column = label, labels[label]
        # of a hub repository: a branch that has moved on is another model
        self._commit = getattr(self._model.config, "_commit_hash", None)
        self._independent = (
            self._model.config.problem_type == "multi_label_classification" or len(labels) == 1
        )
        self._output = output
        self._token_budget = token_budget
        self._max_length = max_length or _positions(self._model)
        self.truncated = 0
        """Texts so far that were longer than ``max_length``."""

    @property
    def identity(self) -> str:
        """What its scores follow from."""
        return identity_of(
            self,
            model=model_identity(self._path),
            commit=self._commit,
            label=self._label,
            output=self._output,
            max_length=self._max_length,
        )

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        texts = [joined_text(p, c) for p, c in zip(prompts, completions, strict=True)]
        encoded = [list(self._tokenizer(text)["input_ids"]) for text in texts]
        name = f"the classifier {self._path}"
        kept, cut = fitted(encoded, self._max_length, self._tokenizer)
        self.truncated = _counted(self.truncated, cut, self._max_length, name)
        logits = classifier_logits(self._model, kept, self._token_budget)
        if self._output == "probability":
            logits = logits.sigmoid() if self._independent else logits.softmax(-1)
        scores = logits[:, self._column].tolist()
        return checked_scores(scores, prompts, name=name)


def load_sequence_classifier(
    path: Path | str, revision: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A sequence classifier in evaluation mode and its tokenizer, from safetensors only; code that comes with
    it is never run.

    Args:
        path: directory or hub repository.

    Raises:
        ModelError: there is none at ``path``.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
        model = AutoModelForSequenceClassification.from_pretrained(
            path,
            revision=revision,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"No reward model could be loaded from {path} ({error}); train one or correct the path."
        ) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device).eval(), tokenizer


@torch.inference_mode()
def classifier_logits(
    model: PreTrainedModel, sequences: Sequence[Sequence[int]], token_budget: int
) -> Tensor:
    """Logits [N, labels] of N token sequences, on the CPU, in single precision.

    A decoder's are read at the last real token, found from the lengths: with the pad id equal to EOS,
    finding it from the ids (as the stock forward does) would read the token before EOS.
    """
    logits = torch.empty(len(sequences), int(model.config.num_labels or 1))
    pad_id = model.config.pad_token_id or 0
    for rows in length_buckets([len(s) for s in sequences], token_budget):
        ids, lengths = right_padded([sequences[i] for i in rows], pad_id)
        ids, lengths = ids.to(model.device), lengths.to(model.device)
        mask = torch.arange(ids.shape[1], device=model.device) < lengths[:, None]
        if hasattr(model, "score"):
            states = model.base_model(
                input_ids=ids, attention_mask=mask.long(), use_cache=False
            ).last_hidden_state
            found = model.get_submodule("score")(
                states[torch.arange(len(rows), device=model.device), lengths - 1]
            )
        else:
            found = model(input_ids=ids, attention_mask=mask.long()).logits
        logits[rows] = found.float().cpu()
    return logits


def fitted(
    encoded: Sequence[list[int]], max_length: int, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[list[int]], int]:
    """Token sequences of at most ``max_length``, and how many were longer.

    Of those the end is kept. The token that begins every text stays before it: at an encoder's [CLS] the
    score is read, and decoders have never seen a text without their BOS.
    """
    first = {tokenizer.cls_token_id, tokenizer.bos_token_id} - {None}
    longer = 0
    kept = []
    for ids in encoded:
        if len(ids) > max_length:
            longer += 1
            start = ids[:1] if ids[0] in first else []
            ids = [*start, *ids[len(ids) - max_length + len(start) :]]
        kept.append(ids)
    return kept, longer


def _counted(before: int, cut: int, max_length: int, name: str) -> int:
    """The new count of truncated texts, whose first ones are logged."""
    if cut and not before:
        logger.warning(
            "%d texts of one batch are longer than the %d tokens that %s reads; they and later ones are "
            "scored by their end.", cut, max_length, name,
        )  # fmt: skip
    return before + cut


def _positions(model: PreTrainedModel) -> int:
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is None:
        return 1_000_000_000
    # RoBERTa-like models count positions from pad_token_id + 1
    offset = getattr(getattr(model.base_model, "embeddings", None), "padding_idx", None)
    return limit if offset is None else limit - offset - 1
