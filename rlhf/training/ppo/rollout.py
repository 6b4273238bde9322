"""Rollouts and what is known of them before learning: log-probabilities, values, scores, advantages.

The first two phases of an update, as functions: sampled completions in, everything the losses need out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rlhf.models.chat import Prompt
from rlhf.models.generation import Completion
from rlhf.models.log_probs import collate
from rlhf.models.reward_protocol import NonFiniteScoreError, Reward, checked_scores, is_shardable
from rlhf.training.ppo.actor_critic import ActorCritic
from rlhf.training.ppo.advantages import (
    ScoreScaler,
    explained_variance,
    generalised_advantages,
    token_rewards,
    whiten,
)
from rlhf.training.ppo.batching import MiniBatch
from rlhf.training.ppo.kl import kl_estimate
from rlhf.training.ppo.losses import importance_weights
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.processes import OneProcess, Processes, own_rows


@dataclass(frozen=True)
class Rollouts:
    """B sampled completions of up to T tokens. Tensors are on the CPU."""

    prompts: Sequence[Prompt]
    completions: Sequence[Completion]

    @property
    def pairs(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """(prompt ids, completion ids) of each."""
        return [(c.prompt_ids, c.token_ids) for c in self.completions]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each, prompt included."""
        return [len(c.prompt_ids) + len(c.token_ids) for c in self.completions]

    @property
    def mask(self) -> Tensor:
        """[B, T] bool, True at completion tokens (EOS included)."""
        sizes = torch.tensor([len(c.token_ids) for c in self.completions])
        return torch.arange(int(sizes.max())) < sizes[:, None]

    @property
    def sampled_log_probs(self) -> Tensor:
        """[B, T] log-probabilities as the sampler computed them."""
        return _padded([torch.tensor(c.log_probs) for c in self.completions])


@dataclass(frozen=True)
class Estimates:
    """Both policies and the critic on the rollouts, before the update: all [B, T], 0 outside of the mask."""

    log_probs: Tensor
    reference_log_probs: Tensor
    values: Tensor
    entropy: Tensor


@dataclass(frozen=True)
class Experience:
    """What the losses need: [B, T], 0 outside of the mask."""

    mask: Tensor
    log_probs: Tensor
    """Of the policy before the update, by the training forward pass."""
    reference_log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    weights: Tensor
    """Importance weights; 1 unless another engine or precision sampled."""

    def tensors(self) -> dict[str, Tensor]:
        """All of them by name."""
        return dict(vars(self))


def estimate(
    models: ActorCritic,
    rollouts: Rollouts,
    first_epoch: Sequence[MiniBatch],
    processes: Processes | None = None,
) -> Estimates:
    """Recompute log-probabilities with the training forward pass, beside reference, values and entropy.

    It runs on the very micro-batches of the update's first epoch. Floating-point products depend on the
    batch's shape, so only then is the ratio exactly 1 at the first optimizer step. Of several processes each
    runs its own micro-batches, and all get all rows.
    """
    pairs = rollouts.pairs
    processes = processes or OneProcess()
    columns: tuple[dict[int, Tensor], ...] = ({}, {}, {}, {})
    shares = [[b for step in first_epoch for b in step.of(p)] for p in range(processes.count)]
    with torch.no_grad():  # sharded networks gather their weights into tensors that learning uses as well
        for rows, counts in processes.turns(shares):
            batch = collate([pairs[i] for i in rows], models.device)
            predicted = models.predict(batch, entropy=True)
            found = (
                predicted.log_probs,
                models.reference_log_probs(batch),
                predicted.values,
                predicted.entropy,
            )
            if not counts:
                continue
            for column, values in zip(columns, found, strict=True):
                assert values is not None
                column.update(zip(rows, values.cpu().split(batch.sizes), strict=True))
    # another process's rows are 0 here and ours are 0 there, so that the sum is exact
    absent = [torch.zeros(len(completion)) for _, completion in pairs]
    return Estimates(
        *(processes.sum(_padded([column.get(i, absent[i]) for i in range(len(pairs))])) for column in columns)
    )


def score_rows(
    reward: Reward, prompts: Sequence[Prompt], completions: Sequence[str], processes: Processes, *, name: str
) -> list[float]:
    """Scores of all completions: each process computes those of its own rows if the reward is shardable,
    otherwise process 0 all of them.

    Raises:
        TrainingError: a score is not finite; it is named by its place in the whole batch.
    """
    rows = (
        own_rows(len(prompts), processes)
        if is_shardable(reward)
        else range(len(prompts) if processes.rank == 0 else 0)
    )
    scores = torch.zeros(len(prompts), dtype=torch.float64)
    if rows:
        own = [prompts[i] for i in rows]
        try:
            found = checked_scores(reward(own, [completions[i] for i in rows]), own, name=name)
        except NonFiniteScoreError as error:
            raise error.at(rows[error.index]) from error
        scores[list(rows)] = torch.tensor(found, dtype=torch.float64)
    return processes.sum(scores).tolist()


def shaped_scores(
    rollouts: Rollouts, scores: Sequence[float], scaler: ScoreScaler, settings: PPOSettings
) -> tuple[Tensor, int]:
    """Scores [B] as PPO maximises them, and how many were clipped; the scaler learns of the raw ones.

    Scaled by the running standard deviation, clipped, and replaced by the penalty where EOS is missing.
    Replaced scores don't enter the running deviation: they are no outcome.
    """
    replaced = [settings.missing_eos_penalty is not None and not c.finished for c in rollouts.completions]
    if settings.scale_scores:
        scaler.update([s for s, out in zip(scores, replaced, strict=True) if not out])
    scaled = torch.tensor(scores, dtype=torch.float64)
    scaled = scaled / (scaler.std if settings.scale_scores else 1.0)
    clipped = 0
    if settings.score_clip is not None:
        kept = ~torch.tensor(replaced)
        clipped = int(((scaled.abs() > settings.score_clip) & kept).sum())
        scaled = scaled.clamp(-settings.score_clip, settings.score_clip)
    if settings.missing_eos_penalty is not None:
        scaled[torch.tensor(replaced)] = -settings.missing_eos_penalty
    return scaled.float(), clipped


def build_experience(
    rollouts: Rollouts,
    estimates: Estimates,
    scores: Tensor,
    settings: PPOSettings,
    *,
    kl_coefficient: float,
    other_engine: bool,
) -> Experience:
    """Advantages and returns of the rollouts.

    Args:
        scores: [B], shaped.
        other_engine: the rollouts were sampled by other numerics than the training pass's.
    """
    mask = rollouts.mask
    kl = kl_estimate(estimates.log_probs, estimates.reference_log_probs, "k1")
    rewards = token_rewards(scores, kl, mask, kl_coefficient)
    advantages, returns = generalised_advantages(
        rewards, estimates.values, mask, discount=settings.discount, gae_lambda=settings.gae_lambda
    )
    weights = torch.ones_like(estimates.log_probs)
    if other_engine:
        weights = importance_weights(estimates.log_probs, rollouts.sampled_log_probs, settings.importance_cap)
    return Experience(
        mask=mask,
        log_probs=estimates.log_probs,
        reference_log_probs=estimates.reference_log_probs,
        values=estimates.values,
        advantages=whiten(advantages, mask) if settings.whiten_advantages else advantages,
        returns=returns,
        weights=weights,
    )


def rollout_figures(
    rollouts: Rollouts, scores: Sequence[float], estimates: Estimates, experience: Experience
) -> dict[str, float]:
    """Means that describe an update's rollouts, by metric name.

    Of raw scores, the KL from the reference in nats per completion, entropy (nats), values and returns per
    token, and lengths in tokens.
    """
    mask, count = experience.mask, len(scores)
    return {
        "reward": sum(scores) / count,
        "kl": float((estimates.log_probs - estimates.reference_log_probs).sum()) / count,
        "entropy": float(estimates.entropy.sum() / mask.sum()),
        "value": float(estimates.values.sum() / mask.sum()),
        "return": float(experience.returns.sum() / mask.sum()),
        "explained_variance": explained_variance(estimates.values, experience.returns, mask),
        "response_length": float(mask.sum()) / count,
        "truncated_share": sum(not c.finished for c in rollouts.completions) / count,
    }


def _padded(rows: Sequence[Tensor]) -> Tensor:
    return pad_sequence(list(rows), batch_first=True)
