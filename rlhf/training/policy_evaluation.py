"""The policy on the dev prompts during training: rewards, KL from the start, and all samples.

It serves the choice of a checkpoint, for every algorithm alike. The held-out evaluation that a promotion
rests on is in ``rlhf.evaluation``.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.models.generation import generate_from_ids
from rlhf.models.length_buckets import length_buckets
from rlhf.models.log_probs import CompletionBatch, collate
from rlhf.models.reward_protocol import Reward
from rlhf.models.settings_generation import GenerationSettings
from rlhf.training.policy_result import PolicyEvaluation, Sample
from rlhf.training.ppo.batching import derived_seed
from rlhf.training.ppo.prompts import EncodedPrompts
from rlhf.training.ppo.rollout import score_rows
from rlhf.training.processes import OneProcess, Processes, own_rows, shares_of_rows


class EvaluatedPolicy(Protocol):
    """A policy in training beside its frozen start."""

    @property
    def device(self) -> torch.device:
        """Where both are."""
        ...

    @property
    def sampler(self) -> PreTrainedModel:
        """The network that answers."""
        ...

    def log_probs_and_entropy(self, batch: CompletionBatch) -> tuple[Tensor, Tensor]:
        """Log-probabilities [N] in nats of a batch's completion tokens, and the entropy [N] before each."""
        ...

    def reference_log_probs(self, batch: CompletionBatch) -> Tensor:
        """Log-probabilities [N] under the policy that training started from."""
        ...


class EvaluationSettings(Protocol):
    """The settings of an algorithm that an evaluation depends on."""

    @property
    def generation(self) -> GenerationSettings: ...
    @property
    def generation_batch_size(self) -> int: ...
    @property
    def micro_batch_tokens(self) -> int: ...
    @property
    def selection_kl_coefficient(self) -> float: ...
    @property
    def seed(self) -> int: ...


def evaluate(
    models: EvaluatedPolicy,
    tokenizer: PreTrainedTokenizerBase,
    dev: EncodedPrompts,
    reward: Reward,
    selection: Reward | None,
    settings: EvaluationSettings,
    *,
    update: int,
    processes: Processes | None = None,
) -> PolicyEvaluation:
    """Answer every dev prompt once and score the answers.

    The random numbers are the same at every evaluation, so that checkpoints differ by their weights alone;
    the global random state is neither read nor moved.

    Raises:
        TrainingError: a score is not finite.
    """
    processes = processes or OneProcess()
    prompts = dev.prompts
    rows = own_rows(len(prompts), processes)
    own = generate_from_ids(
        models.sampler,
        tokenizer,
        [dev.ids[i] for i in rows],
        settings.generation,
        seed=derived_seed(settings.seed, "evaluation", 0),
        batch_size=settings.generation_batch_size,
        rows=rows,
    )
    completions = processes.gather(own, len(prompts))
    texts = [c.text for c in completions]
    scores = score_rows(reward, prompts, texts, processes, name="the reward")
    chosen_by = (
        scores
        if selection is None
        else score_rows(selection, prompts, texts, processes, name="the selection reward")
    )
    pairs = [(c.prompt_ids, c.token_ids) for c in completions]
    kl, entropy = _divergence(models, pairs, settings.micro_batch_tokens, processes)
    count = len(completions)
    selection_mean = sum(chosen_by) / count
    return PolicyEvaluation(
        update=update,
        reward=sum(scores) / count,
        selection_reward=selection_mean,
        kl=kl,
        entropy=entropy,
        length=sum(len(c.token_ids) for c in completions) / count,
        truncated_share=sum(not c.finished for c in completions) / count,
        criterion=selection_mean - settings.selection_kl_coefficient * kl,
        samples=tuple(
            Sample(prompt, text, score, other)
            for prompt, text, score, other in zip(prompts, texts, scores, chosen_by, strict=True)
        ),
    )


@torch.no_grad()
def _divergence(
    models: EvaluatedPolicy,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    token_budget: int,
    processes: Processes,
) -> tuple[float, float]:
    """KL in nats per completion (mean of the summed log-ratios) and entropy in nats per token."""
    divergence = entropy = 0.0
    lengths = [len(p) + len(c) for p, c in pairs]
    shares = [
        length_buckets(lengths, token_budget, indices=share)
        for share in shares_of_rows(len(pairs), processes)
    ]
    for rows, counts in processes.turns(shares):
        batch = collate([pairs[i] for i in rows], models.device)
        log_probs, entropies = models.log_probs_and_entropy(batch)
        log_ratios = log_probs - models.reference_log_probs(batch)
        if counts:
            divergence += float(log_ratios.sum())
            entropy += float(entropies.sum())
    divergence, entropy = processes.sum(torch.tensor([divergence, entropy], dtype=torch.float64)).tolist()
    return divergence / len(pairs), entropy / sum(len(c) for _, c in pairs)
