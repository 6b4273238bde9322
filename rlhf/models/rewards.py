"""Rewards: anything that gives a number to a completion, behind one small protocol.

Reward models, text classifiers, Python functions, and mixes or ensembles of them. A reward sees text, never
the policy's token ids, so it may have any tokenizer. Training reward models is elsewhere.
"""

import importlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol, assert_never, cast

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlhf.errors import ConfigError, ModelError, TrainingError
from rlhf.models.chat import Prompt, encode_conversation, prompt_text
from rlhf.models.length_buckets import length_buckets, right_padded
from rlhf.models.settings_rewards import (
    ClassifierRewardSettings,
    EnsembleRewardSettings,
    FunctionRewardSettings,
    MixRewardSettings,
    ProxyRewardSettings,
    RewardModelRewardSettings,
    RewardSettings,
)

_EXCERPT = 80
"""Characters of a prompt that an error message shows."""


class Reward(Protocol):
    """Scores completions; higher is better."""

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Sequence[float]:
        """One finite score for each (prompt, completion) pair, in order."""
        ...


class RewardModelReward:
    """The scalar head of a reward model, over the conversation as the model's own tokenizer renders it.

    Chats go through its chat template with the completion as the assistant's turn; plain text is prompt
    followed by completion. Both end with EOS, whose position a decoder's score is read from.

    Args:
        path: directory of a sequence classifier with one output.
        token_budget: greatest number of padded tokens in one forward pass.
        max_length: longest conversation in tokens (the model's positions by default); of longer ones the
            end is kept.

    Raises:
        ModelError: not a reward model, or chats are scored without a chat template.
        TrainingError: a score is not finite.
    """

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

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        encoded = [
            encode_conversation(self._tokenizer, p, c) for p, c in zip(prompts, completions, strict=True)
        ]
        self.truncated += sum(len(ids) > self._max_length for ids in encoded)
        kept = [ids[-self._max_length :] for ids in encoded]
        scores = classifier_logits(self._model, kept, self._token_budget)[:, 0].tolist()
        return checked_scores(scores, prompts, name=f"the reward model {self._path}")


class ClassifierReward:
    """The score that a text classifier gives to one label of prompt + completion, read as plain text.

    Raises:
        ConfigError: the model has no such label.
        TrainingError: a score is not finite.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        label: str,
        output: Literal["logit", "probability"] = "logit",
        token_budget: int = 16_384,
        max_length: int | None = None,
    ) -> None:
        self._model, self._tokenizer = load_sequence_classifier(path)
        names = self._model.config.id2label or {}
        labels = {str(name): int(index) for index, name in names.items()}
        if label not in labels:
            raise ConfigError(
                f"The classifier {path} has no label '{label}'; it has {', '.join(sorted(labels))}."
            )
        self._path = path
        self._column = labels[label]
        self._output = output
        self._token_budget = token_budget
        self._max_length = max_length or _positions(self._model)
        self.truncated = 0
        """Texts so far that were longer than ``max_length``."""

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        texts = [_joined(p, c) for p, c in zip(prompts, completions, strict=True)]
        encoded = [list(self._tokenizer(text)["input_ids"]) for text in texts]
        self.truncated += sum(len(ids) > self._max_length for ids in encoded)
        logits = classifier_logits(
            self._model, [ids[-self._max_length :] for ids in encoded], self._token_budget
        )
        chosen = logits.softmax(-1) if self._output == "probability" else logits
        scores = chosen[:, self._column].tolist()
        return checked_scores(scores, prompts, name=f"the classifier {self._path}")


class FunctionReward:
    """A Python function named ``package.module:function`` that takes prompts and completions and returns
    scores.

    Raises:
        ConfigError: it cannot be imported or is not callable.
        TrainingError: it returns another number of scores, or one that is not finite.
    """

    def __init__(self, function: str) -> None:
        module, _, name = function.partition(":")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(
                f"The reward function '{function}' cannot be imported ({error}); write it as "
                "package.module:function."
            ) from error
        if not callable(found):
            raise ConfigError(f"The reward '{function}' is not a function; name one that returns scores.")
        self._function = cast(Callable[[Sequence[Prompt], Sequence[str]], Sequence[float]], found)
        self._name = function

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return checked_scores(
            self._function(prompts, completions), prompts, name=f"the function {self._name}"
        )


class MixReward:
    """The weighted sum of several rewards."""

    def __init__(self, rewards: Sequence[Reward], weights: Sequence[float]) -> None:
        if not rewards or len(rewards) != len(weights):
            raise ConfigError(
                f"A mix needs one weight for each reward, not {len(weights)} for {len(rewards)}; match them."
            )
        self._rewards, self._weights = tuple(rewards), np.asarray(weights, dtype=np.float64)

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return (self._weights @ _score_table(self._rewards, prompts, completions)).tolist()


class EnsembleReward:
    """Several rewards of one scale as one number.

    Args:
        reduce: ``mean``; ``min``, the worst case; ``lower_bound``, mean - k standard deviations
            (population). The
            conservative two are from Coste et al. 2023, *Reward Model Ensembles Help Mitigate
            Overoptimization*, arXiv:2310.02743, section 3.
        k: standard deviations that ``lower_bound`` subtracts.
    """

    def __init__(
        self,
        rewards: Sequence[Reward],
        reduce: Literal["mean", "min", "lower_bound"] = "lower_bound",
        k: float = 1.0,
    ) -> None:
        if not rewards:
            raise ConfigError("An ensemble needs at least one reward; list them under 'rewards'.")
        self._rewards, self._reduce, self._k = tuple(rewards), reduce, k

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        table = _score_table(self._rewards, prompts, completions)
        if self._reduce == "min":
            return table.min(axis=0).tolist()
        mean = table.mean(axis=0)
        return (mean if self._reduce == "mean" else mean - self._k * table.std(axis=0)).tolist()


def build_reward(settings: RewardSettings, *, proxy: Path | None = None) -> Reward:
    """The reward that a configuration describes; models are loaded here.

    Args:
        proxy: directory of the reward model that ``type: proxy`` means, anywhere in the tree.

    Raises:
        ConfigError, ModelError: something named in it does not exist or is of the wrong kind.
    """
    match settings:
        case RewardModelRewardSettings():
            return RewardModelReward(
                settings.path, token_budget=settings.token_budget, max_length=settings.max_length
            )
        case ProxyRewardSettings():
            if proxy is None:
                raise ConfigError(
                    "A reward of type 'proxy' means the reward model of a pipeline run, and there is none "
                    "here; name a directory with type 'reward_model' instead."
                )
            return RewardModelReward(
                proxy, token_budget=settings.token_budget, max_length=settings.max_length
            )
        case ClassifierRewardSettings():
            return ClassifierReward(
                settings.path,
                label=settings.label,
                output=settings.output,
                token_budget=settings.token_budget,
                max_length=settings.max_length,
            )
        case FunctionRewardSettings():
            return FunctionReward(settings.function)
        case MixRewardSettings():
            return MixReward([build_reward(r, proxy=proxy) for r in settings.rewards], settings.weights)
        case EnsembleRewardSettings():
            return EnsembleReward(
                [build_reward(r, proxy=proxy) for r in settings.rewards], settings.reduce, settings.k
            )
    assert_never(settings)


def checked_scores(scores: Sequence[float], prompts: Sequence[Prompt], *, name: str) -> list[float]:
    """The scores as floats, if there is a finite one for every prompt.

    Raises:
        TrainingError: naming the first sample without one.
    """
    values = [float(s) for s in scores]
    if len(values) != len(prompts):
        raise TrainingError(
            f"{name[:1].upper()}{name[1:]} gave {len(values)} scores for {len(prompts)} samples; return one "
            "for each."
        )
    for index, value in enumerate(values):
        if not math.isfinite(value):
            excerpt = prompt_text(prompts[index])[:_EXCERPT]
            raise TrainingError(
                f"{name[:1].upper()}{name[1:]} gave {value} for sample {index} (prompt '{excerpt}'); every "
                "score must be finite."
            )
    return values


def load_sequence_classifier(path: Path | str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A sequence classifier in evaluation mode and its tokenizer, from safetensors only.

    Raises:
        ModelError: there is none at ``path``.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForSequenceClassification.from_pretrained(
            path, dtype=torch.float32, use_safetensors=True
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


def _score_table(
    rewards: Sequence[Reward], prompts: Sequence[Prompt], completions: Sequence[str]
) -> np.ndarray:
    """Scores as [rewards, samples]."""
    rows = [
        checked_scores(reward(prompts, completions), prompts, name=f"reward {number}")
        for number, reward in enumerate(rewards)
    ]
    return np.array(rows, dtype=np.float64)


def _positions(model: PreTrainedModel) -> int:
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is None:
        return 1_000_000_000
    # RoBERTa-like models count positions from pad_token_id + 1
    offset = getattr(getattr(model.base_model, "embeddings", None), "padding_idx", None)
    return limit if offset is None else limit - offset - 1


def _joined(prompt: Prompt, completion: str) -> str:
    if isinstance(prompt, str):
        return prompt + completion
    return f"{prompt_text(prompt)}\n{completion}"
