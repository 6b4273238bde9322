"""What PPO gives back: the result of any algorithm, and the figures that only PPO has."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlhf.training.policy_result import PolicyEvaluation, PolicyResult


@dataclass(frozen=True)
class PPOResult(PolicyResult):
    """A finished PPO run."""

    reward_clip_count: int
    """Scaled scores that were clipped in the whole run."""

    def to_json(self) -> dict[str, Any]:
        """JSON-able, samples included."""
        return {**asdict(self), "policy_path": str(self.policy_path)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "PPOResult":
        """The inverse of :meth:`to_json`."""
        evaluations = tuple(PolicyEvaluation.from_json(e) for e in value["evaluations"])
        return cls(**{**value, "policy_path": Path(value["policy_path"]), "evaluations": evaluations})
