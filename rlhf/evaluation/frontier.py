"""The frontier of reward against KL over the evaluations of one training run, and what it says of
over-optimisation.

It reads what training kept and never generates. The square root of the KL is the axis of Gao, Schulman and
Hilton, *Scaling Laws for Reward Model Overoptimization* (2022), where rewards rise about linearly before they
turn.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlhf.errors import EvaluationError
from rlhf.evaluation.scoring import score_answers
from rlhf.models.reward_protocol import Reward

_NOTICEABLE = 2.0  # paired standard errors


@dataclass(frozen=True)
class FrontierPoint:
    """One evaluated checkpoint of a PPO run."""

    update: int
    kl: float
    """KL(policy‖reference), nats per sequence, mean over the dev prompts."""
    rewards: Mapping[str, float]
    """Mean over the dev prompts by reward name."""
    chosen: bool
    """Whether this checkpoint became the policy."""
    scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict, repr=False)
    """Each dev prompt's score by reward name, prompts in the same order at every point; may be left out."""


@dataclass(frozen=True)
class OverOptimisation:
    """A reward that fell while the optimised one rose: from the former's peak to the end of the run."""

    reward: str
    peak_update: int
    peak: float
    last_update: int
    last: float
    optimised_at_peak: float
    optimised_at_last: float
    chosen_update: int | None
    standard_errors: float | None
    """The fall in paired standard errors over prompts; ``None`` without scores by prompt. The peak is the
    best of many, so it looks a little higher than it is."""

    @property
    def sentence(self) -> str:
        """The finding in words."""
        size = "" if self.standard_errors is None else f", {self.standard_errors:.1f} standard errors"
        chosen = ""
        if self.chosen_update is not None:
            lies = "lies beyond" if self.chosen_update > self.peak_update else "does not lie beyond"
            chosen = f" The chosen checkpoint (update {self.chosen_update}) {lies} that peak."
        return (
            f"After update {self.peak_update} the optimised reward still rose "
            f"({self.optimised_at_peak:.3g} → {self.optimised_at_last:.3g} at update "
            f"{self.last_update}) while {self.reward} fell "
            f"({self.peak:.3g} → {self.last:.3g}{size}): over-optimisation.{chosen}"
        )


def frontier_from_samples(
    rows: Iterable[Mapping[str, Any]], extra_rewards: Mapping[str, Reward], *, maximised: str = "proxy"
) -> tuple[FrontierPoint, ...]:
    """Points from the dev samples that training kept, scored with further rewards such as a simulated truth.

    Args:
        rows: one per sample with ``update``, ``prompt``, ``completion``, ``proxy`` (what training maximised),
            ``selection`` (``None`` where training had none), ``kl`` (nats, of the sample or the mean of its
            update) and ``chosen``.
        extra_rewards: rewards by name; a name that training used is scored anew.
        maximised: name of what training maximised, where that was not the proxy.

    Returns:
        Points in order of update; rewards that training did not have are left out.

    Raises:
        EvaluationError: a score is not finite, or more than one update is marked as chosen.
    """
    samples = sorted(rows, key=lambda row: int(row["update"]))  # stable: prompts keep their order
    if not samples:
        return ()
    columns: dict[str, Sequence[float]] = {
        name: [float(row[column]) for row in samples]
        for column, name in (("proxy", maximised), ("selection", "selection"))
        if all(row.get(column) is not None for row in samples)
    }
    for name, reward in extra_rewards.items():
        columns[name] = score_answers(
            name,
            reward,
            [row["prompt"] for row in samples],
            [str(row["completion"]) for row in samples],
            [f"dev sample of update {row['update']}" for row in samples],
        ).tolist()
    groups: dict[int, list[int]] = {}
    for position, row in enumerate(samples):
        groups.setdefault(int(row["update"]), []).append(position)
    points = []
    for update, members in groups.items():
        scores = {name: tuple(values[i] for i in members) for name, values in columns.items()}
        points.append(
            FrontierPoint(
                update=update,
                kl=float(np.mean([float(samples[i]["kl"]) for i in members])),
                rewards={name: float(np.mean(values)) for name, values in scores.items()},
                chosen=any(bool(samples[i]["chosen"]) for i in members),
                scores=scores,
            )
        )
    chosen = [p.update for p in points if p.chosen]
    if len(chosen) > 1:
        raise EvaluationError(
            f"Only one update can be the chosen one, but {chosen} are marked; repair the rows."
        )
    return tuple(points)


def find_overoptimisation(
    frontier: Sequence[FrontierPoint], optimised: str = "proxy"
) -> tuple[OverOptimisation, ...]:
    """Every reward that ends below its peak although the optimised reward ends above its value at that
    peak."""
    points = sorted((p for p in frontier if optimised in p.rewards), key=lambda p: p.update)
    if len(points) < 2:
        return ()
    last = points[-1]
    chosen = next((p.update for p in points if p.chosen), None)
    findings = []
    for name in (n for n in last.rewards if n != optimised):
        peak = max((p for p in points if name in p.rewards), key=lambda p: p.rewards[name])
        fell = last.rewards[name] < peak.rewards[name]
        errors = _fall_in_standard_errors(peak.scores.get(name), last.scores.get(name))
        noise = errors is not None and errors < _NOTICEABLE
        if fell and not noise and last.rewards[optimised] > peak.rewards[optimised]:
            findings.append(
                OverOptimisation(
                    reward=name,
                    peak_update=peak.update,
                    peak=peak.rewards[name],
                    last_update=last.update,
                    last=last.rewards[name],
                    optimised_at_peak=peak.rewards[optimised],
                    optimised_at_last=last.rewards[optimised],
                    chosen_update=chosen,
                    standard_errors=errors,
                )
            )
    return tuple(findings)


def _fall_in_standard_errors(peak: tuple[float, ...] | None, last: tuple[float, ...] | None) -> float | None:
    if not peak or not last or len(peak) != len(last) or len(peak) < 2:
        return None
    fall = np.subtract(peak, last)
    error = float(fall.std(ddof=1)) / math.sqrt(len(fall))
    return float(fall.mean()) / error if error > 0 else None
