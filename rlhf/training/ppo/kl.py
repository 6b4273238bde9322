"""Kullback-Leibler divergence from the reference: estimators on sampled tokens, and the penalty's
controllers.

Estimators are those of J. Schulman, *Approximating KL Divergence* (2020, joschu.net/blog/kl-approx.html).
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from rlhf.training.ppo.settings import PPOSettings

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are clamped to this before they are exponentiated (verl); exp(20) is far beyond any clip."""


def kl_estimate(log_probs: Tensor, reference: Tensor, estimator: Literal["k1", "k2", "k3"]) -> Tensor:
    """Per-token estimates [N] of KL(policy, reference) in nats from tokens that the policy sampled.

    With d = log p - log q: k1 = d (unbiased, any sign), k2 = d^2 / 2 (biased, never negative),
    k3 = exp(-d) - 1 + d (unbiased, never negative).

    As *losses* they differ from what they are as values: the expected gradient of k2 is that of KL(p, q),
    the one of k3 is that of KL(q, p), and k1's is zero. Hence k1 belongs into the reward, k2 and k3 into
    the loss.
    """
    difference = log_probs - reference
    match estimator:
        case "k1":
            return difference
        case "k2":
            return difference.square() / 2
        case "k3":
            clamped = difference.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
            return torch.exp(-clamped) - 1 + clamped


class KLController(Protocol):
    """Sets the coefficient of the KL penalty."""

    coefficient: float

    def update(self, kl: float, samples: int) -> None:
        """Take note of the mean KL (nats per completion) over ``samples`` completions."""
        ...


@dataclass
class FixedKLController:
    """Keeps its coefficient."""

    coefficient: float

    def update(self, kl: float, samples: int) -> None:
        pass


@dataclass
class AdaptiveKLController:
    """A proportional controller in log space (Ziegler et al. 2019, arXiv:1909.08593, section 2.2).

    The relative error is clipped to 20 %, so one odd batch cannot throw the coefficient.
    """

    coefficient: float
    target: float
    horizon: int

    def update(self, kl: float, samples: int) -> None:
        error = min(max(kl / self.target - 1.0, -0.2), 0.2)
        self.coefficient *= 1.0 + error * samples / self.horizon


def kl_controller(settings: PPOSettings) -> KLController:
    """The one that the settings ask for, at its initial coefficient."""
    if settings.kl_controller == "fixed":
        return FixedKLController(settings.kl_coefficient)
    return AdaptiveKLController(settings.kl_coefficient, settings.kl_target, settings.kl_horizon)
