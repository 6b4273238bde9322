"""What PPO gives back: the chosen policy, every evaluation with its samples, and the figures of the run."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlhf.models.chat import Prompt


@dataclass(frozen=True, slots=True)
class Sample:
    """One dev prompt answered at an evaluation. Kept for all, so that they can be scored by others
    afterwards."""

    prompt: Prompt
    completion: str
    reward: float
    """Score by the reward that PPO maximises (the proxy)."""
    selection_reward: float
    """Score by the reward that selects checkpoints; the proxy's again if there is none."""


@dataclass(frozen=True)
class PolicyEvaluation:
    """The policy on the dev prompts after ``update`` updates; update 0 is the policy that PPO started
    from."""

    update: int
    reward: float
    """Mean proxy score."""
    selection_reward: float
    """Mean score by the selection reward."""
    kl: float
    """KL from the starting policy, in nats per completion: mean over the dev prompts of the sampled log-
    ratio."""
    entropy: float
    """Mean entropy per token, in nats."""
    length: float
    """Mean completion length in tokens, EOS included."""
    truncated_share: float
    """Share of completions that reached max_new_tokens without EOS."""
    criterion: float
    """What checkpoints are chosen by: selection_reward minus the settings' multiple of kl."""
    samples: tuple[Sample, ...]

    def figures(self) -> dict[str, float]:
        """The scalars, by name."""
        return {k: float(v) for k, v in asdict(self).items() if k not in {"samples", "update"}}

    def to_json(self) -> dict[str, Any]:
        """JSON-able, samples included."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "PolicyEvaluation":
        """The inverse of :meth:`to_json`."""
        return cls(**{**value, "samples": tuple(Sample(**s) for s in value["samples"])})


@dataclass(frozen=True)
class PPOResult:
    """A finished PPO run."""

    policy_path: Path
    """The chosen policy: weights, configuration and tokenizer, not sealed."""
    evaluations: tuple[PolicyEvaluation, ...]
    """In order of updates, the starting policy (update 0) first. Empty without dev prompts."""
    best_update: int
    """The update whose policy was chosen; the last one if there was nothing to choose by."""
    criterion: str
    """What it was chosen by, in words."""
    updates: int
    """Updates done; fewer than asked for if training stopped early."""
    stop_reason: str
    """Why training ended, in words."""
    reward_clip_count: int
    """Scaled scores that were clipped in the whole run."""
    prompts_dropped: int
    """Prompts left out for their length."""
    metrics: Mapping[str, float]
    """Figures of the last update and of the chosen evaluation, by metric name."""

    def to_json(self) -> dict[str, Any]:
        """JSON-able, samples included."""
        return {**asdict(self), "policy_path": str(self.policy_path)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "PPOResult":
        """The inverse of :meth:`to_json`."""
        evaluations = tuple(PolicyEvaluation.from_json(e) for e in value["evaluations"])
        return cls(**{**value, "policy_path": Path(value["policy_path"]), "evaluations": evaluations})
