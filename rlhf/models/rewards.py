"""Rewards from a configuration, and those made of others: functions, mixes and ensembles.

Reward models and classifiers, rules and HTTP endpoints have files of their own; ``build_reward`` makes any of
them, nested as the configuration nests.
"""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, assert_never, cast

import numpy as np

from rlhf.errors import ConfigError
from rlhf.models.chat import Prompt
from rlhf.models.reward_classifiers import ClassifierReward, RewardModelReward
from rlhf.models.reward_http import HTTPReward
from rlhf.models.reward_identity import identity_of, reward_identity
from rlhf.models.reward_protocol import Reward, checked_scores, is_shardable
from rlhf.models.reward_rules import RulesReward
from rlhf.models.settings_rewards import (
    ClassifierRewardSettings,
    EnsembleRewardSettings,
    FunctionRewardSettings,
    HTTPRewardSettings,
    MixRewardSettings,
    ProxyRewardSettings,
    RewardModelRewardSettings,
    RewardSettings,
    RulesRewardSettings,
)
from rlhf.source_code import callable_identity


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

    @property
    def identity(self) -> str:
        """What its scores follow from."""
        return identity_of(self, function=callable_identity(self._function))

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
        self.shardable = all(is_shardable(reward) for reward in self._rewards)

    @property
    def identity(self) -> str:
        """What its scores follow from."""
        parts = [reward_identity(r) for r in self._rewards]
        return identity_of(self, rewards=parts, weights=self._weights.tolist())

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
        self.shardable = all(is_shardable(reward) for reward in self._rewards)

    @property
    def identity(self) -> str:
        """What its scores follow from."""
        parts = [reward_identity(r) for r in self._rewards]
        return identity_of(self, rewards=parts, reduce=self._reduce, k=self._k)

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
                revision=settings.revision,
                label=settings.label,
                output=settings.output,
                token_budget=settings.token_budget,
                max_length=settings.max_length,
            )
        case FunctionRewardSettings():
            return FunctionReward(settings.function)
        case RulesRewardSettings():
            return RulesReward(settings.rules)
        case HTTPRewardSettings():
            return HTTPReward(settings)
        case MixRewardSettings():
            return MixReward([build_reward(r, proxy=proxy) for r in settings.rewards], settings.weights)
        case EnsembleRewardSettings():
            return EnsembleReward(
                [build_reward(r, proxy=proxy) for r in settings.rewards], settings.reduce, settings.k
            )
    assert_never(settings)


def _score_table(
    rewards: Sequence[Reward], prompts: Sequence[Prompt], completions: Sequence[str]
) -> np.ndarray:
    """Scores as [rewards, samples]."""
    rows = [
        checked_scores(reward(prompts, completions), prompts, name=f"reward {number}")
        for number, reward in enumerate(rewards)
    ]
    return np.array(rows, dtype=np.float64)
