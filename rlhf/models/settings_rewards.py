"""Which reward a stage uses, as configuration: a tagged union that nests (mixes and ensembles hold rewards).

Light on purpose: a config is validated here without loading torch. ``rlhf.models.rewards.build_reward``
turns it into the callable.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rlhf.settings import Settings


class RewardModelRewardSettings(Settings):
    """The score of a reward model (a sequence classifier with one output)."""

    type: Literal["reward_model"] = "reward_model"
    """Selects this kind of reward."""
    path: Path
    """Directory of the reward model."""
    token_budget: int = Field(default=16_384, ge=1)
    """Greatest number of padded tokens in one forward pass."""
    max_length: int | None = Field(default=None, ge=1)
    """Longest conversation in tokens; longer ones lose the beginning of the prompt and are counted. Unset:
    the model's positions."""


class ProxyRewardSettings(Settings):
    """The score of the proxy: the reward model that this very pipeline run has trained from its feedback."""

    type: Literal["proxy"] = "proxy"
    """Selects this kind of reward."""
    token_budget: int = Field(default=16_384, ge=1)
    """Greatest number of padded tokens in one forward pass."""
    max_length: int | None = Field(default=None, ge=1)
    """Longest conversation in tokens; longer ones lose the beginning of the prompt and are counted. Unset:
    the model's positions."""


class ClassifierRewardSettings(Settings):
    """The score that a text classifier (sentiment, toxicity, topic) gives to one of its labels."""

    type: Literal["classifier"] = "classifier"
    """Selects this kind of reward."""
    path: Path
    """Directory of the classifier."""
    label: str
    """Label to maximise, as named in the model's ``id2label``."""
    output: Literal["logit", "probability"] = "logit"
    """Reward the label's logit (no ceiling) or its probability (in [0, 1])."""
    token_budget: int = Field(default=16_384, ge=1)
    """Greatest number of padded tokens in one forward pass."""
    max_length: int | None = Field(default=None, ge=1)
    """Longest text in tokens; longer ones lose their beginning and are counted. Unset: the model's
    positions."""


class FunctionRewardSettings(Settings):
    """A Python function ``(prompts, completions) -> scores``."""

    type: Literal["function"] = "function"
    """Selects this kind of reward."""
    function: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """The function as ``package.module:name``."""


class MixRewardSettings(Settings):
    """A weighted sum of rewards."""

    type: Literal["mix"] = "mix"
    """Selects this kind of reward."""
    rewards: tuple["RewardSettings", ...] = Field(min_length=1)
    """The rewards to add up."""
    weights: tuple[float, ...]
    """One weight for each reward; they need not add up to 1."""

    @model_validator(mode="after")
    def _one_weight_each(self) -> Self:
        if len(self.weights) != len(self.rewards):
            raise ValueError(
                f"{len(self.rewards)} rewards but {len(self.weights)} weights; give one weight for each"
            )
        return self


class EnsembleRewardSettings(Settings):
    """Several rewards of one scale as one: disagreement between them marks what none of them knows."""

    type: Literal["ensemble"] = "ensemble"
    """Selects this kind of reward."""
    rewards: tuple["RewardSettings", ...] = Field(min_length=2)
    """The rewards to combine, usually reward models of different folds or seeds."""
    reduce: Literal["mean", "min", "lower_bound"] = "lower_bound"
    """Mean, worst case, or mean minus k standard deviations (Coste et al. 2023, arXiv:2310.02743)."""
    k: float = Field(default=1.0, ge=0)
    """Standard deviations to subtract; used by ``lower_bound`` only."""


RewardSettings = Annotated[
    RewardModelRewardSettings
    | ProxyRewardSettings
    | ClassifierRewardSettings
    | FunctionRewardSettings
    | MixRewardSettings
    | EnsembleRewardSettings,
    Field(discriminator="type"),
]
"""Any reward, told apart by ``type``."""

MixRewardSettings.model_rebuild()
EnsembleRewardSettings.model_rebuild()
