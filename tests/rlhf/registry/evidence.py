"""Evidence for gates, made up by the prompt."""

from collections.abc import Mapping, Sequence

import numpy as np

from rlhf.registry.gate_evidence import Evidence

Scores = Sequence[float] | np.ndarray


def evidence(
    policy: Scores, sft: Scores, champion: Scores | None = None, metrics: Mapping[str, float] | None = None
) -> Evidence:
    """Scores of one reward, ``judge``, by prompt."""
    roles = {"policy": policy, "sft": sft} | ({} if champion is None else {"champion": champion})
    scores = {"judge": {role: [float(score) for score in given] for role, given in roles.items()}}
    return Evidence(metrics={"eval/prompts": float(len(policy)), **(metrics or {})}, scores=scores)


def won(wins: int, ties: int, losses: int) -> Evidence:
    """So many prompts won, tied and lost against the SFT policy."""
    return evidence([1.0] * wins + [0.0] * (ties + losses), [0.0] * (wins + ties) + [1.0] * losses)
