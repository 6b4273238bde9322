"""What the gate reads of an evaluation: its flat figures, and mean rewards by prompt for paired tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rlhf.errors import ConfigError

ByPrompt = Mapping[str, Mapping[str, Sequence[float]]]


@dataclass(frozen=True)
class Evidence:
    """An evaluation as the gate sees it."""

    metrics: Mapping[str, float]
    """Flat figures, such as ``eval/kl``; ``<name>_low`` and ``<name>_high`` are the ends of its interval."""
    scores: ByPrompt = field(default_factory=dict)
    """Mean reward of each prompt by reward and role (``policy``, ``sft``, ``champion``), prompts in one
    order."""
    tie_tolerance: float = 1e-6
    """Differences up to this size are ties, in the reward's unit."""
    confidence: float = 0.95
    """Two-sided level of the intervals among the figures."""

    @classmethod
    def from_report(cls, data: Mapping[str, Any]) -> "Evidence":
        """Read the ``data`` of an evaluation report."""
        settings = data.get("settings", {})
        return cls(
            metrics=data["metrics"],
            scores=data.get("by_prompt", {}).get("scores", {}),
            tie_tolerance=settings.get("tie_tolerance", cls.tie_tolerance),
            confidence=settings.get("confidence", cls.confidence),
        )

    def differences(self, reward: str, versus: str, *, key: str) -> npt.NDArray[np.float64]:
        """The policy's mean reward minus the baseline's by prompt, shape ``[prompts]``.

        Raises:
            ConfigError: ``key`` asks for a reward or a baseline that the evaluation does not hold.
        """
        if reward not in self.scores:
            raise ConfigError(
                f"{key}.metric asks for the reward {reward!r}, of which the evaluation holds no scores by "
                f"prompt; it has: {', '.join(sorted(self.scores)) or 'none'}."
            )
        by_role = self.scores[reward]
        for role in ("policy", versus):
            if role not in by_role:
                raise ConfigError(
                    f"{key}.versus: the evaluation holds no {reward} scores of the {role} model."
                )
        return np.subtract(by_role["policy"], by_role[versus], dtype=np.float64)
