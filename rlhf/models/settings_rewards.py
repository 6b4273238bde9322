"""Which reward a stage uses, as configuration: a tagged union that nests (mixes and ensembles hold rewards).
The rules of a rule set are in ``rlhf.models.settings_rules``.

Light on purpose: a config is validated here without loading torch. ``rlhf.models.rewards.build_reward``
turns it into the callable.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rlhf.models.endpoints import require_safe_url
from rlhf.models.settings_rules import Rule
from rlhf.settings import Settings


class EndpointSettings(Settings):
    """An HTTP endpoint, and how patient one is with it."""

    url: str
    """Where to POST; https, or http on this very machine. No user names, no query string, no keys in it."""
    concurrency: int = Field(default=4, ge=1)
    """Requests under way at a time."""
    timeout: float = Field(default=60.0, gt=0)
    """Longest wait for a connection or for further bytes of an answer, in seconds."""
    retries: int = Field(default=5, ge=0)
    """Further attempts for a request that met a connection error, a time-out, status 429 or 5xx."""
    backoff: float = Field(default=0.5, gt=0)
    """Longest wait before the first retry, in seconds. It doubles with each retry, and the wait is drawn
    evenly from zero to it, unless the server names one (``Retry-After``)."""
    longest_wait: float = Field(default=60.0, gt=0)
    """Longest wait before any retry, in seconds; a server that asks for a longer one is given up."""
    breaker_failures: int = Field(default=5, ge=1)
    """Failed attempts in a row, over all requests, that make an outage: nothing more is sent, and what is to
    be scored waits. More than ``retries`` let a request be given up before an outage is seen."""
    breaker_cooldown: float = Field(default=30.0, gt=0)
    """Seconds between the single trials that are made during an outage."""
    longest_outage: float = Field(default=600.0, ge=0)
    """Seconds of outage that are waited for; training stops with the first trial that fails after them. 0
    stops as soon as an outage is seen."""
    api_key_variable: str | None = Field(default=None, pattern=r"^[A-Za-z_]\w*$")
    """Name of the environment variable whose value is sent as bearer token. The value itself belongs into no
    config."""
    allow_plain_http: bool = False
    """Send prompts (and the key) unencrypted to another machine."""

    @model_validator(mode="after")
    def _url_is_safe(self) -> Self:
        require_safe_url(self.url, key="url", allow_plain_http=self.allow_plain_http)
        return self


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
    """Directory of the classifier, or its repository on the Hugging Face hub (``owner/name``)."""
    revision: str | None = None
    """Commit, tag or branch of a hub repository; pin a commit to get the same weights for ever."""
    label: str
    """Label to maximise, as named in the model's ``id2label``."""
    output: Literal["logit", "probability"] = "logit"
    """Reward the label's logit (no ceiling) or its probability (in [0, 1]; of a multi-label model by
    sigmoid)."""
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


class RulesRewardSettings(Settings):
    """A sum of verifiable rules: each gives a completion between 0 (broken) and 1 (kept), times its
    weight."""

    type: Literal["rules"] = "rules"
    """Selects this kind of reward."""
    rules: tuple[Rule, ...] = Field(min_length=1)
    """The rules to add up."""


class HTTPRewardSettings(EndpointSettings):
    """Scores from an HTTP endpoint: prompts and completions are sent as JSON, scores come back."""

    type: Literal["http"] = "http"
    """Selects this kind of reward."""
    protocol: Literal["scores", "openrlhf"] = "scores"
    """Form of the JSON: ``scores`` sends ``prompts`` and ``completions`` and reads ``scores``; ``openrlhf``
    sends ``query`` (prompt and completion as one text) and ``prompts`` and reads ``rewards``, as the reward
    servers of OpenRLHF do."""
    batch_size: int = Field(default=32, ge=1)
    """Samples in one request."""


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
    | RulesRewardSettings
    | HTTPRewardSettings
    | MixRewardSettings
    | EnsembleRewardSettings,
    Field(discriminator="type"),
]
"""Any reward, told apart by ``type``."""

MixRewardSettings.model_rebuild()
EnsembleRewardSettings.model_rebuild()
