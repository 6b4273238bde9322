"""From scores to advantages: scaling, the KL-penalised reward of each token, and generalised advantage
estimation.

Pure functions on [B, T] tensors of completion tokens, padded on the right, with a boolean mask that is the
only thing to say what is real. Nothing here looks at token ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass
class ScoreScaler:
    """Running standard deviation of all scores so far (Chan et al. 1979's parallel update); no shift of the
    mean.

    Scaling follows Zheng et al. 2023 (MOSS-RLHF, arXiv:2307.04964); the mean stays, for it says which
    behaviour is good at all.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared deviations from the mean."""

    def update(self, scores: Sequence[float]) -> None:
        """Add a batch of scores; an empty one changes nothing."""
        if not scores:
            return
        batch = np.asarray(scores, dtype=np.float64)
        total = self.count + len(batch)
        shift = float(batch.mean()) - self.mean
        self.squares += float(batch.var()) * len(batch) + shift**2 * self.count * len(batch) / total
        self.mean += shift * len(batch) / total
        self.count = total

    @property
    def std(self) -> float:
        """Sample standard deviation; 1 until there are two different scores."""
        if self.count < 2 or self.squares <= 0.0:
            return 1.0
        return float(np.sqrt(self.squares / (self.count - 1)))


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coefficient: float) -> Tensor:
    """Reward [B, T] of each completion token: minus the KL penalty, plus the score on the last real one.

    Args:
        scores: [B], one for each completion. It lands on EOS where there is one.
        kl: [B, T], per-token k1 estimates in nats.
        mask: [B, T], True where real; each row has at least one token, without gaps from the left.
    """
    rewards = torch.where(mask, -kl_coefficient * kl, 0.0)
    last = mask.sum(1) - 1
    rewards[torch.arange(len(scores), device=scores.device), last] += scores
    return rewards


def generalised_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, *, discount: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns [B, T] (Schulman et al. 2015, arXiv:1506.02438, equation 16).

    The value after a completion's last real token is 0, whether it ended by EOS or was truncated. Both
    results are 0 outside the mask; returns are advantages + values, the targets of the critic.
    """
    values = torch.where(mask, values, 0.0)
    advantages = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0])
    following = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        error = rewards[:, t] + discount * following - values[:, t]
        running = torch.where(mask[:, t], error + discount * gae_lambda * running, 0.0)
        following = values[:, t]
        advantages[:, t] = running
    return advantages, torch.where(mask, advantages + values, 0.0)


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Values [B, T] with mean 0 and standard deviation 1 over the mask, 0 outside of it.

    A constant is only centred.
    """
    real = values[mask]
    centred = real - real.mean()
    deviation = centred.square().mean().sqrt()
    result = torch.zeros_like(values)
    result[mask] = centred / deviation if float(deviation) > 0 else centred
    return result


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns) over the mask: 1 for a perfect critic, 0 for a constant one.

    NaN-free: 0 where the returns do not vary.
    """
    real, error = returns[mask].double(), (returns - values)[mask].double()
    variance = float(real.var(unbiased=False))
    return 1.0 - float(error.var(unbiased=False)) / variance if variance > 0 else 0.0
