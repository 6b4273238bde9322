"""Which evaluated policy is delivered and when training ends: pure functions of the evaluations so far."""

from collections.abc import Sequence

from rlhf.training.ppo.result import PolicyEvaluation
from rlhf.training.ppo.settings import PPOSettings


def best_evaluation(evaluations: Sequence[PolicyEvaluation]) -> PolicyEvaluation | None:
    """The one with the highest criterion, the earliest of equals."""
    return max(evaluations, key=lambda e: e.criterion, default=None)


def criterion_in_words(settings: PPOSettings, *, dev_prompts: int, selection: bool) -> str:
    """What policies are chosen by.

    Args:
        selection: a selection reward was given.
    """
    if not dev_prompts:
        return "none: there are no dev prompts, so the last policy is delivered"
    by = "selection reward"
    if not selection:
        by = "training reward (no selection reward was given, so this cannot see over-optimisation)"
    return f"mean {by} on the dev prompts - {settings.selection_kl_coefficient:g} x KL"


def stop_reason(evaluations: Sequence[PolicyEvaluation], update: int, settings: PPOSettings) -> str:
    """Why training ends after ``update`` updates; empty while it goes on."""
    best = best_evaluation(evaluations)
    if best is not None:
        last = evaluations[-1]
        if settings.stop_kl is not None and last.kl > settings.stop_kl:
            return f"KL {last.kl:.3g} rose above stop_kl ({settings.stop_kl:g})"
        since = len(evaluations) - 1 - evaluations.index(best)
        if settings.patience is not None and since >= settings.patience:
            return f"no better checkpoint in {since} evaluations"
    return "all updates done" if update >= settings.updates else ""
