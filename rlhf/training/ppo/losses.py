"""PPO's losses, per token: the caller sums them and divides by the tokens of the whole mini-batch.

Dividing there, once, makes the gradient independent of how a mini-batch is cut into micro-batches: a mean
of means would give short micro-batches' tokens more weight. All arguments are packed vectors [N] of
completion tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf.training.ppo.kl import LOG_RATIO_LIMIT


@dataclass(frozen=True)
class PolicyLoss:
    """What :func:`policy_loss` gives, all [N] and only ``loss`` with a gradient."""

    loss: Tensor
    clipped: Tensor
    """True where the clip took the gradient away."""
    kl: Tensor
    """k3 estimate of KL(rollout policy, current policy) in nats, for logging and the KL stop."""


def policy_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    *,
    clip_range: float = 0.2,
    clip_range_upper: float | None = None,
    dual_clip: float | None = None,
) -> PolicyLoss:
    """The clipped surrogate, negated (Schulman et al. 2017, arXiv:1707.06347, equation 7).

    Args:
        clip_range_upper: another upper bound (Yu et al. 2025, DAPO, arXiv:2503.14476, section 3.1).
        dual_clip: bounds the loss of negative advantages at ``dual_clip`` x |advantage| (Ye et al. 2020,
            arXiv:1912.09729, equation 5).
    """
    log_ratio = (log_probs - old_log_probs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    ratio = log_ratio.exp()
    upper = clip_range if clip_range_upper is None else clip_range_upper
    free = -advantages * ratio
    bounded = -advantages * ratio.clamp(1 - clip_range, 1 + upper)
    loss = torch.maximum(free, bounded)
    clipped = bounded > free
    if dual_clip is not None:
        ceiling = -advantages * dual_clip
        capped = (advantages < 0) & (loss > ceiling)
        loss, clipped = torch.where(capped, ceiling, loss), clipped | capped
    with torch.no_grad():
        kl = ratio - 1 - log_ratio
    return PolicyLoss(loss, clipped, kl)


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, *, clip_range: float | None = 0.2
) -> Tensor:
    """Half the squared error [N], pessimistic about changes of the estimate beyond ``clip_range``."""
    free = (values - returns).square()
    if clip_range is None:
        return free / 2
    near = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return torch.maximum(free, (near - returns).square()) / 2


def importance_weights(old_log_probs: Tensor, rollout_log_probs: Tensor, cap: float = 2.0) -> Tensor:
    """Truncated importance weights [N] for tokens that another engine or precision sampled.

    The weight of a token is min(p_train / p_rollout, cap): exactly 1 where both agree (Yao et al. 2025, *Your
    Efficient RL Framework Secretly Brings You Off-Policy RL Training*; verl's ``tis_imp_ratio_cap``).
    """
    return (old_log_probs - rollout_log_probs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp().clamp(max=cap)
