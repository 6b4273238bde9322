"""One PPO update: epochs of optimizer steps over the rollouts, with gradients accumulated over micro-batches.

Owns the optimizers. Does not sample, score or decide when to stop training.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlhf.errors import TrainingError
from rlhf.models.length_buckets import length_buckets
from rlhf.models.log_probs import collate
from rlhf.models.memory import hand_back_freed_memory
from rlhf.training.ppo.actor_critic import ActorCritic
from rlhf.training.ppo.batching import MiniBatch
from rlhf.training.ppo.kl import kl_estimate
from rlhf.training.ppo.losses import policy_loss, value_loss
from rlhf.training.ppo.optimizers import build_optimizer
from rlhf.training.ppo.rollout import Experience, Rollouts
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.ppo.sharding import whole
from rlhf.training.processes import OneProcess, Processes, shares_of_rows

TokenPairs = Sequence[tuple[Sequence[int], Sequence[int]]]
"""(prompt ids, completion ids)."""


class NonFiniteLossError(TrainingError):
    """A loss or gradient is not finite; ``rows`` are the rollouts of the mini-batch it arose in."""

    def __init__(self, what: str, rows: Sequence[int]) -> None:
        super().__init__(f"{what} is not finite.")
        self.what = what
        self.rows = list(rows)


@dataclass(frozen=True)
class OptimizerGroup:
    """An optimizer with the named parameters whose gradient norm is clipped as one."""

    name: str
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer


class Learner:
    """Updates actor and critic from experience.

    Of several processes each runs its own micro-batches of a step; gradients and figures are their sums.
    """

    def __init__(
        self, models: ActorCritic, settings: PPOSettings, processes: Processes | None = None
    ) -> None:
        self._models = models
        self._settings = settings
        self._processes = processes or OneProcess()
        actor = {f"policy.{n}": p for n, p in models.policy_parameters().items()}
        value = {f"critic.{n}": p for n, p in models.value_parameters().items()}
        rates = {"actor": settings.learning_rate, "critic": settings.critic_learning_rate}
        if models.critic is None:
            self.groups = [self._group("actor", {"actor": actor, "critic": value}, rates)]
        else:
            self.groups = [
                self._group("actor", {"actor": actor}, rates),
                self._group("critic", {"critic": value}, rates),
            ]

    def learn(
        self,
        rollouts: Rollouts,
        experience: Experience,
        plan: Sequence[Sequence[MiniBatch]],
        *,
        update: int,
        demonstrations: Sequence[TokenPairs] = (),
    ) -> dict[str, float]:
        """Take the optimizer steps of one update.

        Args:
            plan: mini-batches of each epoch.
            update: 1, 2, ...; learning rates and the critic's warm-up depend on it.
            demonstrations: for PPO-ptx, a batch for each optimizer step.

        Returns:
            Means over the steps taken, by metric name.

        Raises:
            NonFiniteLossError: before a step would spoil the weights.
        """
        train_actor = update > self._settings.critic_warmup_updates
        self._set_learning_rates(update)
        sums: defaultdict[str, float] = defaultdict(float)
        steps, stopped = 0, False
        for number, step in enumerate(step for epoch in plan for step in epoch):
            ptx = demonstrations[number] if demonstrations else ()
            found = self.accumulate(rollouts, experience, step, train_actor=train_actor, ptx=ptx)
            if self._settings.target_kl is not None and found["approx_kl"] > self._settings.target_kl:
                self._zero_gradients()
                stopped = True
                break
            found |= self._apply(step, train_actor)
            for name, value in found.items():
                sums[name] += value
            steps += 1
        return {
            **{name: total / steps for name, total in sums.items()},
            "optimizer_steps": float(steps),
            "stopped_by_kl": float(stopped),
            "learning_rate": self.groups[0].optimizer.param_groups[0]["lr"],
        }

    def accumulate(
        self,
        rollouts: Rollouts,
        experience: Experience,
        step: MiniBatch,
        *,
        train_actor: bool = True,
        ptx: TokenPairs = (),
    ) -> dict[str, float]:
        """Set the parameters' ``.grad`` to a mini-batch's gradient; the loss is a mean over all its tokens.

        Returns:
            Means over the tokens: losses, ``clip_fraction`` and ``approx_kl`` (k3, nats per token).
        """
        pairs = rollouts.pairs
        tokens = int(experience.mask[step.rows].sum())
        sums: defaultdict[str, float] = defaultdict(float)
        shares = [step.of(process) for process in range(self._processes.count)]
        for rows, counts in self._processes.turns(shares):
            figures = sums if counts else defaultdict(float)
            batch = collate([pairs[i] for i in rows], self._models.device)
            selected = {
                name: tensor[list(rows)][experience.mask[list(rows)]].to(self._models.device)
                for name, tensor in experience.tensors().items()
                if name != "mask"
            }
            for actor, values in self._passes(train_actor):
                predicted = self._models.predict(
                    batch,
                    actor=actor,
                    values=values,
                    entropy=self._settings.entropy_coefficient > 0,
                    freeze_trunk=not train_actor,
                )
                losses = []
                if predicted.values is not None:
                    losses.append(self._critic_loss(predicted.values, selected, figures, beside_actor=actor))
                if predicted.log_probs is not None:
                    losses.append(self._actor_loss(predicted.log_probs, predicted.entropy, selected, figures))
                loss = torch.stack(losses).sum() / tokens
                (loss if counts else 0.0 * loss).backward()
        means = {name: total / tokens for name, total in self._summed(sums).items()}
        means.setdefault("approx_kl", 0.0)
        if train_actor and ptx:
            means["ptx_loss"] = self._accumulate_ptx(ptx)
        self._processes.sum_gradients(p for group in self.groups for p in group.parameters.values())
        for name in ("policy_loss", "value_loss", "ptx_loss"):
            if not math.isfinite(means.get(name, 0.0)):
                raise NonFiniteLossError(f"The {name.replace('_', ' ')}", step.rows)
        return means

    def _passes(self, train_actor: bool) -> list[tuple[bool, bool]]:
        """Whether actor and values take part in each forward and backward pass over a micro-batch.

        A separate critic gets one of its own, so that the activations of one network are held at a time.
        """
        if self._models.critic is None:
            return [(train_actor, True)]
        return [(False, True), (True, False)] if train_actor else [(False, True)]

    def _critic_loss(
        self,
        predicted: Tensor,
        selected: dict[str, Tensor],
        sums: defaultdict[str, float],
        *,
        beside_actor: bool,
    ) -> Tensor:
        """The critic's summed loss, weighted where it shares its pass with the actor's; adds its figure to
        ``sums``."""
        loss = value_loss(
            predicted, selected["values"], selected["returns"], clip_range=self._settings.value_clip_range
        ).sum()
        sums["value_loss"] += float(loss.detach())
        return loss * (self._settings.value_coefficient if beside_actor else 1.0)

    def _actor_loss(
        self,
        log_probs: Tensor,
        entropy: Tensor | None,
        selected: dict[str, Tensor],
        sums: defaultdict[str, float],
    ) -> Tensor:
        """The actor's summed loss; adds its figures to ``sums``."""
        settings = self._settings
        surrogate = policy_loss(
            log_probs,
            selected["log_probs"],
            selected["advantages"],
            clip_range=settings.clip_range,
            clip_range_upper=settings.clip_range_upper,
            dual_clip=settings.dual_clip,
        )
        loss = (surrogate.loss * selected["weights"]).sum()
        sums["policy_loss"] += float(loss.detach())
        sums["clip_fraction"] += float(surrogate.clipped.sum())
        sums["approx_kl"] += float(surrogate.kl.sum())
        if settings.kl_loss is not None:
            penalty = kl_estimate(log_probs, selected["reference_log_probs"], settings.kl_loss).sum()
            sums["kl_loss"] += float(penalty.detach())
            loss = loss + settings.kl_loss_coefficient * penalty
        if entropy is not None:
            loss = loss - settings.entropy_coefficient * entropy.sum()
        return loss

    def _accumulate_ptx(self, pairs: TokenPairs) -> float:
        """Gradient of ptx_coefficient x the mean negative log-likelihood of demonstrations; returns that
        mean."""
        tokens = sum(len(completion) for _, completion in pairs)
        total = 0.0
        lengths = [len(p) + len(c) for p, c in pairs]
        shares = [
            length_buckets(lengths, self._settings.micro_batch_tokens, indices=share)
            for share in shares_of_rows(len(pairs), self._processes)
        ]
        for rows, counts in self._processes.turns(shares):
            batch = collate([pairs[i] for i in rows], self._models.device)
            log_probs = self._models.predict(batch, values=False).log_probs
            assert log_probs is not None
            loss = -log_probs.sum() / tokens
            (self._settings.ptx_coefficient * (loss if counts else 0.0 * loss)).backward()
            total += float(loss.detach()) if counts else 0.0
        return self._summed({"ptx_loss": total})["ptx_loss"]

    def _summed(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Figures added up over the processes, which all have the same ones."""
        names = sorted(figures)
        totals = self._processes.sum(torch.tensor([figures[n] for n in names], dtype=torch.float64))
        return dict(zip(names, totals.tolist(), strict=True))

    def _apply(self, step: MiniBatch, train_actor: bool) -> dict[str, float]:
        """Clip and step; all norms are checked before any weight moves."""
        norms: dict[str, float] = {}
        for group in self.groups:
            norm = float(
                whole(
                    nn.utils.clip_grad_norm_(
                        list(group.parameters.values()), self._settings.max_gradient_norm
                    )
                )
            )
            if not math.isfinite(norm):
                raise NonFiniteLossError(f"The {group.name}'s gradient", step.rows)
            norms["grad_norm" if group.name == "actor" else "critic_grad_norm"] = norm
        if not any(group.optimizer.state for group in self.groups):
            hand_back_freed_memory()  # the moments are made now, and stay
        for group in self.groups:
            # without a gradient AdamW leaves a parameter alone, its moments and decay included
            group.optimizer.step()
            group.optimizer.zero_grad(set_to_none=True)  # makes room for the next group's moments
        return norms

    def _zero_gradients(self) -> None:
        for group in self.groups:
            group.optimizer.zero_grad(set_to_none=True)

    def _group(
        self, name: str, parts: dict[str, dict[str, nn.Parameter]], rates: dict[str, float]
    ) -> OptimizerGroup:
        param_groups = [
            {"params": list(parameters.values()), "lr": rates[part], "base_lr": rates[part]}
            for part, parameters in parts.items()
        ]
        optimizer = build_optimizer(param_groups, self._settings)
        return OptimizerGroup(name, {n: p for part in parts.values() for n, p in part.items()}, optimizer)

    def _set_learning_rates(self, update: int) -> None:
        factor = learning_rate_factor(update, self._settings)
        for group in self.groups:
            for parameters in group.optimizer.param_groups:
                parameters["lr"] = parameters["base_lr"] * factor


def learning_rate_factor(update: int, settings: PPOSettings) -> float:
    """Share of the peak learning rate in update 1, 2, ...: linear warm-up times the schedule."""
    warmup = min(1.0, update / settings.warmup_updates) if settings.warmup_updates else 1.0
    done = (update - 1) / settings.updates
    match settings.learning_rate_schedule:
        case "constant":
            return warmup
        case "linear":
            return warmup * (1.0 - done)
        case "cosine":
            return warmup * 0.5 * (1.0 + math.cos(math.pi * done))
