"""Rewards: anything that gives a number to a completion, behind one small protocol."""

from collections.abc import Sequence
from typing import Protocol

from rlhf.models.chat import Prompt


class Reward(Protocol):
    """Scores completions; higher is better."""

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Sequence[float]:
        """One finite score for each (prompt, completion) pair, in order."""
        ...
