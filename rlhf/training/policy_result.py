"""What every policy trainer gives back, whatever its algorithm: the chosen policy, all evaluations with their
samples, and the rule that chose. Algorithms differ in how they train; how they are judged is the same."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlhf.models.chat import Prompt


@dataclass(frozen=True, slots=True)
class Sample:
    """One dev prompt answered at an evaluation. Kept for all, so that they can be scored by others
    afterwards."""

    prompt: Prompt
    completion: str
    reward: float
    """Score by the reward that training maximises (the proxy)."""
    selection_reward: float
    """Score by the reward that selects checkpoints; the proxy's again if there is none."""


@dataclass(frozen=True)
class PolicyEvaluation:
    """The policy on the dev prompts after ``update`` updates; update 0 is the policy that training started
    from."""

    update: int
    reward: float
    """Mean proxy score."""
    selection_reward: float
    """Mean score by the selection reward."""
    kl: float
    """KL from the starting policy, in nats per completion: mean over the dev prompts of the sampled log-
    ratio."""
    entropy: float
    """Mean entropy per token, in nats."""
    length: float
    """Mean completion length in tokens, EOS included."""
    truncated_share: float
    """Share of completions that reached max_new_tokens without EOS."""
    criterion: float
    """What checkpoints are chosen by: selection_reward minus the settings' multiple of kl."""
    samples: tuple[Sample, ...]

    def figures(self) -> dict[str, float]:
        """The scalars, by name."""
        return {k: float(v) for k, v in asdict(self).items() if k not in {"samples", "update"}}

    def to_json(self) -> dict[str, Any]:
        """JSON-able, samples included."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "PolicyEvaluation":
        """The inverse of :meth:`to_json`."""
        return cls(**{**value, "samples": tuple(Sample(**s) for s in value["samples"])})


@dataclass(frozen=True)
class PolicyResult:
    """A finished training run of any algorithm."""

    policy_path: Path
    """The chosen policy: weights, configuration and tokenizer, not sealed."""
    evaluations: tuple[PolicyEvaluation, ...]
    """In order of updates, the starting policy (update 0) first. Empty without dev prompts."""
    best_update: int
    """The update whose policy was chosen; the last one if there was nothing to choose by."""
    criterion: str
    """What it was chosen by, in words."""
    updates: int
    """Updates done; fewer than asked for if training stopped early."""
    stop_reason: str
    """Why training ended, in words."""
    prompts_dropped: int
    """Prompts left out for their length."""
    metrics: Mapping[str, float]
    """Figures of the last update and of the chosen evaluation, by metric name."""


def best_evaluation(evaluations: Sequence[PolicyEvaluation]) -> PolicyEvaluation | None:
    """The one with the highest criterion, the earliest of equals; ``None`` if there is none."""
    return max(evaluations, key=lambda e: e.criterion, default=None)


def early_stop_reason(
    evaluations: Sequence[PolicyEvaluation], *, stop_kl: float | None, patience: int | None
) -> str:
    """Why training should end after the last evaluation, in words; empty if it should go on.

    Args:
        stop_kl: greatest KL of the last evaluation, in nats per completion.
        patience: evaluations in a row that may pass without a better one.
    """
    best = best_evaluation(evaluations)
    if best is None:
        return ""
    last = evaluations[-1]
    if stop_kl is not None and last.kl > stop_kl:
        return f"KL {last.kl:.3g} rose above stop_kl ({stop_kl:g})"
    since = len(evaluations) - 1 - list(evaluations).index(best)
    if patience is not None and since >= patience:
        return f"no better checkpoint in {since} evaluations"
    return ""


def selection_criterion(*, dev_prompts: bool, selection: bool, kl_coefficient: float) -> str:
    """The rule that chooses the checkpoint, in words.

    Args:
        dev_prompts: whether there are any to choose by.
        selection: whether a reward other than the maximised one chooses.
    """
    if not dev_prompts:
        return "none: there are no dev prompts, so the last policy is delivered"
    by = "selection reward"
    if not selection:
        by = "training reward (no selection reward was given, so this cannot see over-optimisation)"
    return f"mean {by} on the dev prompts - {kl_coefficient:g} x KL"
