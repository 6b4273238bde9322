"""The reward models' own report: where they are right about held-out pairs, whether their certainty is
deserved, and how their agreement with people compares with people's among themselves.

Every policy is judged by these models, so how far they can be trusted belongs beside what they say.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from datasets import Dataset
from scipy.special import expit

from rlhf.errors import EvaluationError
from rlhf.evaluation.intervals import wilson_interval
from rlhf.evaluation.scoring import prompt_clusters
from rlhf.evaluation.settings import SLICE_NAMES
from rlhf.evaluation.win_rate import Clusters, Estimate, mean_estimate, ratio_estimate
from rlhf.report import Cell, ReportBuilder, Series

Values = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_SIMILAR = 1.2
"""Ratio of lengths in characters up to which two answers are about equally long."""
_FEW_PROMPTS = 30


@dataclass(frozen=True)
class PairSlice:
    """Accuracy on some of the pairs."""

    kind: str
    """By what they were chosen: ``length``, ``margin``, ``votes`` or ``source``."""
    name: str
    pairs: int
    accuracy: Estimate
    longer_wins: float
    """Accuracy of always preferring the longer answer, on the same pairs."""


@dataclass(frozen=True)
class ReliabilityBin:
    """Pairs of about the same certainty."""

    confidence: float
    """Mean probability that the model gives to the answer that it prefers."""
    accuracy: float
    """Share of pairs in which people chose that answer."""
    pairs: int


@dataclass(frozen=True)
class Calibration:
    """Whether a preference of 80 % is right in 80 % of cases."""

    ece: float
    """Expected calibration error: mean distance of accuracy from confidence over bins, weighted by their
    pairs. Never negative, so with few pairs a perfect model has some as well."""
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class HumanAgreement:
    """Agreement on pairs with several votes; a pair on which people were evenly split has no chosen side and
    is not among them."""

    pairs: int
    with_humans: Estimate
    """Probability that the model prefers what one person drawn at random preferred."""
    among_humans: Estimate
    """Probability that two different people drawn at random preferred the same."""
    ceiling: float
    """What always following the majority would reach: no model can agree more with single people."""


@dataclass(frozen=True)
class RewardModelEvidence:
    """What is known of one reward model."""

    pairs: int
    accuracy: Estimate
    """Share of held-out pairs in which the chosen answer scores higher; equal scores count half."""
    longer_wins: float
    bag_of_words: float | None
    """Accuracy of a pairwise TF-IDF model taught from the same fold, measured when the model was trained."""
    slices: tuple[PairSlice, ...]
    calibration: Calibration | None
    """``None`` for a model of ratings, whose differences are no log odds."""
    humans: HumanAgreement | None
    """``None`` where no pair has several votes whose shares are known."""


def examine_reward_model(
    gaps: Values,
    comparisons: Dataset,
    *,
    confidence: float,
    seed: int,
    log_odds: bool = True,
    bag_of_words: float | None = None,
) -> RewardModelEvidence:
    """Hold a reward model against people's choices.

    Args:
        gaps: reward of the chosen less that of the rejected answer, shape (pairs,).
        comparisons: the pairs: ``prompt``, ``chosen``, ``rejected`` and, where there are any, ``margin``,
            ``agreement``, ``votes`` and ``source``.
        log_odds: whether gaps are log odds, as those of a Bradley-Terry model are.

    Raises:
        EvaluationError: there are no pairs, or not as many gaps.
    """
    if not len(gaps) or len(gaps) != len(comparisons):
        raise EvaluationError(
            f"A reward model is examined by one gap for each pair, not by {len(gaps)} for {len(comparisons)}."
        )
    clusters = prompt_clusters(comparisons["prompt"][:])
    lengths = [
        np.array([len(turns[0]["content"]) for turns in comparisons[side]], dtype=np.float64)
        for side in ("chosen", "rejected")
    ]
    right, longer = _right(gaps), _right(lengths[0] - lengths[1])

    def accuracy(mask: Mask) -> Estimate:
        return pair_accuracy(right[mask], clusters[mask], confidence=confidence, seed=seed)

    every = np.ones(len(gaps), dtype=bool)
    return RewardModelEvidence(
        pairs=len(gaps),
        accuracy=accuracy(every),
        longer_wins=float(longer.mean()),
        bag_of_words=bag_of_words,
        slices=tuple(
            PairSlice(kind, name, int(mask.sum()), accuracy(mask), float(longer[mask].mean()))
            for kind, name, mask in _slices(comparisons, lengths[0], lengths[1])
            if mask.any()
        ),
        calibration=calibration(gaps) if log_odds else None,
        humans=human_agreement(right, comparisons, clusters, confidence=confidence, seed=seed),
    )


def pair_accuracy(right: Values, clusters: Clusters, *, confidence: float, seed: int) -> Estimate:
    """Share of pairs that are right (1, 0, ½ for equal scores), shape (pairs,), with its interval over
    prompts: Wilson's where each prompt has one pair, where there are few prompts and where all pairs are
    alike; else BCa of the ratio of right pairs to pairs."""
    _, clusters = np.unique(clusters, return_inverse=True)
    prompts = int(clusters.max()) + 1
    share = float(right.mean())
    if prompts == len(right) or prompts < _FEW_PROMPTS or np.ptp(right) == 0:
        successes = float(right.sum()) if prompts == len(right) else share * prompts
        interval = wilson_interval(min(successes, prompts), prompts, confidence)
        return Estimate(share, interval.low, interval.high)
    return ratio_estimate(right, np.ones_like(right), clusters, confidence=confidence, seed=seed)


def calibration(gaps: Values, *, bins: int = 10) -> Calibration:
    """Expected calibration error and its bins (Guo et al. 2017, arXiv:1706.04599, eq. 3) of σ(gap) as the
    probability of the answer that people chose; bins of equal width from 0.5 to 1, empty ones left out."""
    certainty = expit(np.abs(gaps))
    right = _right(gaps)
    index = np.minimum(((certainty - 0.5) * 2 * bins).astype(int), bins - 1)
    filled = [
        ReliabilityBin(float(certainty[own].mean()), float(right[own].mean()), int(own.sum()))
        for own in (index == i for i in range(bins))
        if own.any()
    ]
    ece = sum(b.pairs * abs(b.accuracy - b.confidence) for b in filled) / len(gaps)
    return Calibration(float(ece), tuple(filled))


def human_agreement(
    right: Values, comparisons: Dataset, clusters: Clusters, *, confidence: float, seed: int
) -> HumanAgreement | None:
    """Agreement of a model and of people with single people. With n votes of which a share a is for the
    chosen answer, two of them agree with probability ``(n·(a² + (1 − a)²) − 1) / (n − 1)``.

    Returns:
        ``None`` where fewer than two prompts have a pair with several votes. Agreements that are no shares of
        votes (Dawid-Skene's are probabilities) are left out.
    """
    if not {"votes", "agreement"} <= set(comparisons.column_names):
        return None
    votes = np.array(comparisons["votes"][:], dtype=np.float64)
    share = np.array(comparisons["agreement"][:], dtype=np.float64)
    usable = (votes > 1) & (np.abs(share * votes - np.round(share * votes)) < 1e-6)
    if len(np.unique(clusters[usable])) < 2:
        return None
    n, a = votes[usable], share[usable]
    _, own = np.unique(clusters[usable], return_inverse=True)

    def mean(values: Values) -> Estimate:
        return mean_estimate(values, own, confidence=confidence, seed=seed)

    return HumanAgreement(
        pairs=int(usable.sum()),
        with_humans=mean(right[usable] * a + (1 - right[usable]) * (1 - a)),
        among_humans=mean((n * (a**2 + (1 - a) ** 2) - 1) / (n - 1)),
        ceiling=float(a.mean()),
    )


def reward_model_metrics(name: str, evidence: RewardModelEvidence) -> dict[str, float]:
    """Figures under ``eval/rm/<name>/``; slices by source, whose names are the user's, are in the report
    alone."""
    estimates = {"accuracy": evidence.accuracy} | {
        f"accuracy_{cut.name}": cut.accuracy for cut in evidence.slices if cut.kind != "source"
    }
    figures = {"pairs": float(evidence.pairs), "longer_wins_accuracy": evidence.longer_wins}
    if evidence.bag_of_words is not None:
        figures["bag_of_words_accuracy"] = evidence.bag_of_words
    if evidence.calibration is not None:
        figures["ece"] = evidence.calibration.ece
    if evidence.humans is not None:
        estimates["agreement_with_humans"] = evidence.humans.with_humans
        estimates["agreement_among_humans"] = evidence.humans.among_humans
    for key, estimate in estimates.items():
        figures |= {key: estimate.value, f"{key}_low": estimate.low, f"{key}_high": estimate.high}
    return {f"eval/rm/{name}/{key}": value for key, value in figures.items()}


def reward_model_section(builder: ReportBuilder, models: Mapping[str, RewardModelEvidence]) -> None:
    """The section of the evaluation report."""
    builder.heading("Can the reward models be trusted?")
    builder.note(
        "Each on held-out pairs that people judged, beside two baselines that know nothing of meaning. A "
        "model that is no better than these has learnt length or vocabulary."
    )
    builder.table(
        ["model", "pairs", "accuracy", "longer wins", "TF-IDF", "calibration error"],
        [
            [
                name,
                found.pairs,
                found.accuracy.text,
                found.longer_wins,
                found.bag_of_words,
                found.calibration.ece if found.calibration else None,
            ]
            for name, found in models.items()
        ],
    )
    humans = {name: found.humans for name, found in models.items() if found.humans is not None}
    if humans:
        builder.table(
            ["model", "pairs with several votes", "agrees with a person", "two people agree", "at most"],
            [
                [name, h.pairs, h.with_humans.text, h.among_humans.text, h.ceiling]
                for name, h in humans.items()
            ],
        )
    else:
        builder.note("Agreement among people is not known: no pair has several votes whose shares are known.")
    _slice_table(builder, models)
    curves = [
        Series(
            name,
            [b.confidence for b in found.calibration.bins],
            [b.accuracy for b in found.calibration.bins],
        )
        for name, found in models.items()
        if found.calibration is not None
    ]
    if curves:
        builder.plot(
            [Series("perfect", [0.5, 1.0], [0.5, 1.0]), *curves],
            x_label="certainty of the model",
            y_label="share of pairs in which it is right",
            title="Reliability",
        )


def _slice_table(builder: ReportBuilder, models: Mapping[str, RewardModelEvidence]) -> None:
    of: dict[tuple[str, str], dict[str, PairSlice]] = {}
    for name, found in models.items():
        for cut in found.slices:
            of.setdefault((cut.kind, cut.name), {})[name] = cut
    rows: list[list[Cell]] = []
    for (kind, label), by_model in of.items():
        one = next(iter(by_model.values()))
        accuracies = [by_model[n].accuracy.text if n in by_model else None for n in models]
        rows.append([kind, label.replace("_", " "), one.pairs, *accuracies, one.longer_wins])
    builder.table(["by", "pairs where", "pairs", *models, "longer wins"], rows)


def _right(gaps: Values) -> Values:
    return np.where(gaps == 0, 0.5, (gaps > 0).astype(np.float64))


def _slices(comparisons: Dataset, chosen: Values, rejected: Values) -> Iterator[tuple[str, str, Mask]]:
    ratio = np.maximum(chosen, 1) / np.maximum(rejected, 1)
    masks: list[tuple[str, Sequence[Mask]]] = [
        ("length", [ratio > _SIMILAR, (ratio <= _SIMILAR) & (ratio * _SIMILAR >= 1), ratio * _SIMILAR < 1])
    ]
    columns = set(comparisons.column_names)
    if "margin" in columns:
        margin = np.array(comparisons["margin"][:], dtype=np.float64)
        if (known := margin[margin > 0]).size and np.ptp(known) > 0:
            low, high = np.quantile(known, [1 / 3, 2 / 3])
            small, large = (margin > 0) & (margin <= low), margin > high
            masks.append(("margin", [small, (margin > low) & (margin <= high), large]))
    if {"votes", "agreement"} <= columns:
        votes, share = np.array(comparisons["votes"][:]), np.array(comparisons["agreement"][:])
        several = votes > 1
        clear, unanimous = several & (share >= 0.75), several & (share >= 0.95)
        masks.append(("votes", [~several, several & ~clear, clear & ~unanimous, unanimous]))
    for kind, of_kind in masks:
        for name, mask in zip(SLICE_NAMES[kind], of_kind, strict=True):
            yield kind, name, mask
    if "source" in columns:
        sources = np.array(comparisons["source"][:])
        for source in np.unique(sources):
            yield "source", str(source), sources == source
