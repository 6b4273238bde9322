"""What a suite found, as figures with intervals, and the few ways in which suites estimate them.

Items that share a template, an occupation or a person are not independent: they are one cluster, and
clusters are the unit of every interval.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from scipy import stats

from rlhf.errors import EvaluationError
from rlhf.evaluation.evidence import Baseline, Role
from rlhf.evaluation.intervals import wilson_interval
from rlhf.evaluation.win_rate import Clusters, Estimate, Values, ratio_estimate, win_rate
from rlhf.report import Cell

T = TypeVar("T")
_RESAMPLES = 4999


@dataclass(frozen=True)
class Figure:
    """One figure of every model."""

    name: str
    meaning: str
    """What it says, in one clause for people."""
    estimates: Mapping[Role, Estimate]
    differences: Mapping[Baseline, Estimate] = field(default_factory=dict)
    """Policy minus the other model on the same items; empty where a figure has no value by item."""


@dataclass(frozen=True)
class Table:
    """Figures of groups of items, for the report: too few items each for a gate."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class SuiteResult:
    """Everything that one suite found."""

    suite: str
    title: str
    about: str
    """What is measured, by which paper, for the report."""
    items: int
    figures: Sequence[Figure]
    left_out: int = 0
    """Items that did not fit into a model's positions, or that had no verdict."""
    plain: Mapping[str, float] = field(default_factory=dict)
    """Figures without an interval, under the suite's name."""
    comparisons: Mapping[str, Estimate] = field(default_factory=dict)
    """Figures of the policy against a baseline, such as ``win_rate_vs_sft``."""
    tables: Sequence[Table] = ()
    examples: Sequence[Mapping[str, Any]] = ()
    """Some items with the models' answers, for the report."""

    def metrics(self) -> dict[str, float]:
        """Flat figures, such as ``eval/xstest/refusals_safe/policy_low``."""
        flat = {f"eval/{self.suite}/{name}": value for name, value in self.plain.items()}
        if self.items:
            flat[f"eval/{self.suite}/items"] = float(self.items)
        for figure in self.figures:
            named = {
                **{str(role): estimate for role, estimate in figure.estimates.items()},
                **{f"difference_vs_{baseline}": e for baseline, e in figure.differences.items()},
            }
            for ending, estimate in named.items():
                flat |= _flat(f"eval/{self.suite}/{figure.name}/{ending}", estimate)
        for name, estimate in self.comparisons.items():
            flat |= _flat(f"eval/{self.suite}/{name}", estimate)
        return flat


@dataclass(frozen=True)
class Estimator:
    """Estimates with intervals at one level.

    Args:
        confidence: two-sided level.
        seed: of resampling.
    """

    confidence: float
    seed: int

    def share(self, hits: Values, clusters: Clusters) -> Estimate:
        """Share of ones among values of 0 and 1 (one half: undecided), shape ``[items]``."""
        if _independent(clusters) or np.ptp(hits) == 0:
            return self.win_rate(hits, clusters)
        return self.ratio(hits, np.ones(len(hits)), clusters)

    def win_rate(self, scores: Values, clusters: Clusters) -> Estimate:
        """Mean over clusters of scores 0, one half (tie) and 1, shape ``[items]``; unanimity keeps an
        interval of some width (:func:`rlhf.evaluation.win_rate.win_rate`)."""
        won = win_rate(scores, np.full(len(scores), 0.5), clusters, tolerance=0.0, **self._options)
        return Estimate(won.rate, won.low, won.high)

    def mean(self, values: Values, clusters: Clusters) -> Estimate:
        """Mean over items, shape ``[items]``."""
        return self.ratio(values, np.ones(len(values)), clusters)

    def ratio(self, numerators: Values, denominators: Values, clusters: Clusters) -> Estimate:
        """Sum of numerators over sum of denominators, shapes ``[items]``, with clusters resampled.

        Raises:
            EvaluationError: fewer than two clusters have a denominator.
        """
        top: Values = np.bincount(clusters, weights=numerators).astype(np.float64)
        bottom: Values = np.bincount(clusters, weights=denominators).astype(np.float64)
        kept = bottom > 0
        top, bottom = top[kept], bottom[kept]
        return ratio_estimate(top, bottom, np.arange(len(top)), **self._options)

    def share_difference(self, first: Values, second: Values, clusters: Clusters) -> Estimate:
        """Difference of two shares on the same items, first minus second, so that agreement on few items is
        not taken for certainty.

        Of independent items it is the share that only the first has, less the share that only the second
        has: two cells of one multinomial, whose score intervals are combined with their correlation (the
        MOVER of Zou & Donner 2008, Statistics in Medicine 27:1693; Tang et al. 2010, Statistics in Medicine
        29:1835).
        """
        difference = first - second
        if not _independent(clusters):
            if np.ptp(difference) > 0:
                return self.mean(difference, clusters)
            difference = np.full(int(clusters.max()) + 1, difference[0])
        gained, lost = np.maximum(difference, 0.0), np.maximum(-difference, 0.0)
        p, q = float(gained.mean()), float(lost.mean())
        together = -float(np.sqrt(p * q / ((1 - p) * (1 - q)))) if p < 1 and q < 1 else 0.0
        return self._subtracted(gained, lost, correlation=together)

    def contrast(self, first: Values, second: Values) -> Estimate:
        """Difference of two shares on different items, first minus second, with the hybrid score interval
        (Newcombe 1998, Statistics in Medicine 17:873, method 10)."""
        return self._subtracted(first, second, correlation=0.0)

    def _subtracted(self, first: Values, second: Values, *, correlation: float) -> Estimate:
        """Difference of two means of values from 0 to 1, from the score interval of each."""
        (p, p_low, p_high), (q, q_low, q_high) = (
            (float(v.mean()), interval.low, interval.high)
            for v in (first, second)
            for interval in [wilson_interval(float(v.sum()), len(v), self.confidence)]
        )

        def reach(x: float, y: float) -> float:
            return float(np.sqrt(x * x - 2 * correlation * x * y + y * y))

        low, high = p - q - reach(p - p_low, q_high - q), p - q + reach(p_high - p, q - q_low)
        return Estimate(p - q, max(low, -1.0), min(high, 1.0))

    def gap(self, groups: Sequence[Values]) -> Estimate | None:
        """Largest difference between the means of groups, with a bootstrap interval within groups.

        Groups that are equal in truth differ in a sample, so that it lies above zero even then.

        Args:
            groups: values of independent units, one array for each group.

        Returns:
            ``None`` with fewer than two groups of at least two units.
        """
        large = [group for group in groups if len(group) > 1]
        if len(large) < 2:
            return None
        value = float(np.ptp([group.mean() for group in large]))
        if all(np.ptp(group) == 0 for group in large):
            return Estimate(value, value, value)
        # Not BCa: its jackknife is undefined where the two extreme groups do not vary.
        interval = stats.bootstrap(
            large,
            _largest_difference,
            confidence_level=self.confidence,
            n_resamples=_RESAMPLES,
            method="percentile",
            vectorized=True,
            batch=max(1, 2_000_000 // sum(map(len, large))),
            rng=np.random.default_rng(self.seed),
        ).confidence_interval
        return Estimate(value, float(interval.low), float(interval.high))

    def correlation(self, x: Values, y: Values) -> Estimate | None:
        """Pearson's correlation with Fisher's interval; ``None`` where a side does not vary or there are
        fewer than four points."""
        if len(x) < 4 or np.ptp(x) == 0 or np.ptp(y) == 0:
            return None
        found = stats.pearsonr(x, y)
        interval = found.confidence_interval(self.confidence)
        return Estimate(float(found.statistic), float(interval.low), float(interval.high))

    @property
    def _options(self) -> dict[str, Any]:
        return {"confidence": self.confidence, "seed": self.seed}


def paired_figure(
    name: str,
    meaning: str,
    values: Mapping[Role, Values],
    clusters: Clusters,
    estimator: Estimator,
    *,
    share: bool = True,
) -> Figure:
    """A figure that has a value for every item, and so a paired difference from the baselines.

    Args:
        values: shape ``[items]`` for each model; 0 or 1 where ``share`` is true.
    """
    one = estimator.share if share else estimator.mean
    baselines: tuple[Baseline, ...] = ("sft", "champion")
    differences = {
        baseline: estimator.share_difference(values["policy"], values[baseline], clusters)
        if share
        else estimator.mean(values["policy"] - values[baseline], clusters)
        for baseline in baselines
        if baseline in values
    }
    return Figure(name, meaning, {role: one(v, clusters) for role, v in values.items()}, differences)


def means_by_group(
    title: str, columns: tuple[str, str], groups: npt.NDArray[np.str_], values: Mapping[Role, Values]
) -> Table:
    """How many items each group has, and each model's mean over them.

    Args:
        columns: what a group is called, and what its items are.
        groups: of each item, shape ``[items]``.
        values: shape ``[items]`` for each model.
    """
    return Table(
        title,
        (*columns, *values),
        [
            [
                str(group),
                int((groups == group).sum()),
                *(float(v[groups == group].mean()) for v in values.values()),
            ]
            for group in np.unique(groups)
        ],
    )


def examples(
    prompts: Sequence[str], answers: Mapping[Role, Sequence[str]], positions: Iterable[int]
) -> list[dict[str, Any]]:
    """Prompts with every model's answer, for the report."""
    return [{"prompt": prompts[i], **{role: texts[i] for role, texts in answers.items()}} for i in positions]


def spread(items: int, most: int) -> list[int]:
    """Positions of at most so many items, evenly apart."""
    return [int(i) for i in np.linspace(0, items - 1, min(most, items), dtype=int)]


def preferred(leaning: Values) -> Values:
    """1 where a leaning is positive, 0 where it is negative and one half where there is none."""
    return (leaning > 0) + 0.5 * (leaning == 0)


def numbered(keys: Sequence[object]) -> Clusters:
    """For each key the number of its cluster, counted from 0 in order of appearance."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.intp)


def complete_items(suite: str, answers: Mapping[Role, Sequence[object | None]]) -> npt.NDArray[np.intp]:
    """Positions of the items that every model answered.

    Raises:
        EvaluationError: there are fewer than two.
    """
    asked = len(next(iter(answers.values())))
    kept = [i for i in range(asked) if all(given[i] is not None for given in answers.values())]
    if len(kept) < 2:
        raise EvaluationError(
            f"Of the {asked} items of evaluation.suites.{suite} only {len(kept)} fit into the positions of "
            "all models; shorten the prompts or leave the suite out."
        )
    return np.array(kept, dtype=np.intp)


def pick(values: Sequence[T | None], positions: npt.NDArray[np.intp]) -> list[T]:
    """The values at positions of which it is known that they are there."""
    return [value for i in positions if (value := values[i]) is not None]


def _flat(name: str, estimate: Estimate) -> dict[str, float]:
    found = {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    # An interval that is not known is left out: a criterion that asks for it is then an error, never a pass.
    return {key: value for key, value in found.items() if np.isfinite(value)}


def _independent(clusters: Clusters) -> bool:
    return int(clusters.max()) + 1 == len(clusters)


def _largest_difference(*groups: Values, axis: int) -> Values:
    means = np.stack([group.mean(axis=axis) for group in groups])
    return means.max(axis=0) - means.min(axis=0)
