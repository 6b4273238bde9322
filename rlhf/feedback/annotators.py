"""Who annotated how well: agreement on each question, and for each annotator reliability, pace, position bias
and straight-lining. It measures; only a threshold of the settings decides anything."""

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.errors import AgreementError
from rlhf.evaluation.intervals import Interval, wilson_interval
from rlhf.feedback.aggregation.dawid_skene import dawid_skene
from rlhf.feedback.aggregation.majority import agrees_with_others
from rlhf.feedback.agreement import Agreement, Level, krippendorff_alpha

MOST_IN_OVERLAP = 12
"""Annotators in the overlap matrix: those of most judgements."""

Item = tuple[str, ...]
"""A record, and the response or responses that were judged."""

_FEWEST_CHOICES = 20
"""Choices from which a share of them says something."""

_BREAK_SECONDS = 1800.0
"""A longer gap between two judgements is no measure of pace."""

_LEVELS: Mapping[str, Level] = {
    "comparison": "nominal",
    "label": "nominal",
    "ranking": "ordinal",
    "rating": "interval",
}


@dataclass(frozen=True)
class AnnotatorFigures:
    """One annotator on one question. None where nothing can be said."""

    name: str
    judgements: int
    shared: int
    """Judgements on items whose other judgements have a majority."""
    agreement: float | None
    """Share of these in which the annotator is with that majority."""
    reliability: float | None
    """Probability of giving the true answer, by Dawid and Skene's model."""
    bias: float | None
    """Ratings: mean difference from the others' mean on the same items, in points."""
    first_share: float | None
    """Comparisons, from 20 choices on: share of them that fell on the answer shown first, with its 95 %
    interval."""
    first_interval: Interval | None
    first_p: float | None
    """Two-sided binomial p-value of that share being one half."""
    modal_share: float
    """Share of the most frequent answer."""
    longest_run: int | None
    """Equal answers in a row, where times say what came after what."""
    seconds: float | None
    """Median time between two judgements in a row, breaks over half an hour left out."""


@dataclass(frozen=True)
class QuestionFigures:
    """All annotators on one question of one source."""

    source: str
    kind: str
    question: str
    judgements: int
    items: int
    agreement: Agreement | None
    annotators: tuple[AnnotatorFigures, ...]
    """By number of judgements, most first."""
    overlap: tuple[tuple[int, ...], ...]
    """Items that two annotators both judged, for the first ``MOST_IN_OVERLAP`` of them."""

    @property
    def name(self) -> str:
        """The question for people."""
        return f"{self.source}: {self.question or self.kind}"


@dataclass
class _Judgements:
    """The rows of one question taken apart."""

    units: list[tuple[Item, str, Any]] = field(default_factory=list)
    """(item, annotator, value) as agreement is measured; a ranking is one rank for each response."""
    choices: list[tuple[Item, str, Any]] = field(default_factory=list)
    """(item, annotator, label) as a majority is taken; a ranking is a choice for each two responses."""
    answers: dict[str, list[tuple[str, Hashable]]] = field(default_factory=lambda: defaultdict(list))
    """By annotator: time and answer as given, in order of time."""
    positions: dict[str, Counter[int | None]] = field(default_factory=lambda: defaultdict(Counter))
    """By annotator: how often each position of a comparison was preferred."""


def annotator_figures(records: Iterable[Mapping[str, Any]]) -> list[QuestionFigures]:
    """Figures of every question that comparisons, labels, ratings or rankings answer, by source and question.

    Independent of the order of the rows. Judgements without a name count for agreement and are listed as one
    annotator.

    Args:
        records: annotation rows as dicts of ``ROW_SCHEMA``; only submitted ones count.
    """
    questions: dict[tuple[str, str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for record in records:
        if record["kind"] in _LEVELS and record["status"] == "submitted":
            questions[record["source"], record["kind"], record["question"]].append(record)
    return [_question(*key, rows) for key, rows in sorted(questions.items())]


def require_agreement(questions: Sequence[QuestionFigures], minimum: float | None) -> None:
    """Stop where annotators agree less than asked.

    Raises:
        AgreementError: alpha of a question is below ``minimum``.
    """
    for question in questions:
        agreement = question.agreement
        if minimum is not None and agreement is not None and agreement.alpha < minimum:
            raise AgreementError(
                f"Annotators of '{question.name}' agree with an alpha of {agreement.alpha:.3f} (95 % "
                f"interval {agreement.interval.low:.3f} to {agreement.interval.high:.3f}, {agreement.items} "
                f"items), less than datasets.minimum_agreement {minimum}; review their instructions, leave "
                "the source or the unreliable annotators out, or lower the threshold."
            )


def _question(source: str, kind: str, question: str, rows: list[Mapping[str, Any]]) -> QuestionFigures:
    taken = _taken_apart(kind, rows)
    names = sorted(taken.answers, key=lambda name: (-len(taken.answers[name]), name))
    number = {name: index for index, name in enumerate(names)}
    items = _numbered([item for item, _, _ in taken.units])
    annotators = np.array([number[name] for _, name, _ in taken.units])
    values = np.array([value for _, _, value in taken.units])
    shared, agreed, reliability = _against_others(taken.choices, number)
    biases = _rating_biases(items, annotators, values, len(names)) if kind == "rating" else None
    figures = []
    for index, name in enumerate(names):
        first = taken.positions[name][0]
        chosen = first + taken.positions[name][1]
        enough = chosen >= _FEWEST_CHOICES
        answers = Counter(answer for _, answer in taken.answers[name])
        run, seconds = _in_time(taken.answers[name])
        figures.append(
            AnnotatorFigures(
                name=name,
                judgements=len(taken.answers[name]),
                shared=int(shared[index]),
                agreement=float(agreed[index] / shared[index]) if shared[index] else None,
                reliability=float(reliability[index]) if reliability is not None else None,
                bias=None if biases is None or np.isnan(biases[index]) else float(biases[index]),
                first_share=first / chosen if enough else None,
                first_interval=wilson_interval(first, chosen) if enough else None,
                first_p=_even_odds_p(first, chosen) if enough else None,
                modal_share=answers.most_common(1)[0][1] / answers.total(),
                longest_run=run,
                seconds=seconds,
            )
        )
    return QuestionFigures(
        source=source,
        kind=kind,
        question=question,
        judgements=len(rows),
        items=int(items.max()) + 1,
        agreement=krippendorff_alpha(items, values, _LEVELS[kind]),
        annotators=tuple(figures),
        overlap=_overlap(items, annotators, min(len(names), MOST_IN_OVERLAP)),
    )


def _taken_apart(kind: str, rows: list[Mapping[str, Any]]) -> _Judgements:
    taken = _Judgements()
    # Two annotators may have seen a pair in opposite orders; then the order of the texts stands for both.
    leading: dict[Item, set[str]] = defaultdict(set)
    if kind == "comparison":
        for row in rows:
            leading[row["record_id"], *sorted(row["responses"])].add(row["responses"][0])
    for row in sorted(rows, key=lambda row: (row["updated_at"], row["row_hash"])):
        name, record, responses = row["annotator"], row["record_id"], row["responses"]
        value = json.loads(row["value"])
        answer: Hashable = tuple(value) if isinstance(value, list) else value
        taken.answers[name].append((row["updated_at"], answer))
        if kind == "ranking":
            taken.units += (((record, text), name, rank) for text, rank in zip(responses, value, strict=True))
            ranked = sorted(zip(responses, value, strict=True))
            taken.choices += (
                ((record, one, two), name, int(rank > other) if rank != other else 2)
                for (one, rank), (two, other) in itertools.combinations(ranked, 2)
            )
            continue
        item: Item = (record, *sorted(responses))
        if kind == "comparison":
            taken.positions[name][value] += 1
            opposed = len(leading[item]) > 1 and responses[0] != item[1]
            value = 2 if value is None else value ^ opposed
        elif kind == "label":
            value = str(value).strip().lower()
        taken.units.append((item, name, value))
        if kind != "rating":
            taken.choices.append((item, name, value))
    return taken


def _numbered(things: Sequence[Hashable]) -> NDArray[np.int64]:
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(thing, len(numbers)) for thing in things], dtype=np.int64)


def _against_others(
    choices: list[tuple[Item, str, Any]], number: Mapping[str, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64] | None]:
    """By annotator: judgements with a majority of the others beside them, how many agree with it, and the
    reliability, where the model has anything to go by."""
    if not choices:
        return np.zeros(len(number), dtype=np.int64), np.zeros(len(number), dtype=np.int64), None
    items = _numbered([item for item, _, _ in choices])
    annotators = np.array([number[name] for _, name, _ in choices])
    labels = np.unique(np.array([label for _, _, label in choices]), return_inverse=True)[1]
    agrees, judged = agrees_with_others(items, labels)
    shared = np.bincount(annotators[judged], minlength=len(number))
    agreed = np.bincount(annotators[judged & agrees], minlength=len(number))
    if not judged.any():
        return shared, agreed, None
    return shared, agreed, dawid_skene(items, annotators, labels).reliability


def _rating_biases(
    items: NDArray[np.int64], annotators: NDArray[np.int64], ratings: NDArray[np.float64], count: int
) -> NDArray[np.float64]:
    """Mean difference of each annotator's ratings from the mean of the others'; NaN without others."""
    others = np.bincount(items)[items] - 1
    shared = others > 0
    rest = (np.bincount(items, ratings)[items][shared] - ratings[shared]) / others[shared]
    totals = np.bincount(annotators[shared], ratings[shared] - rest, minlength=count)
    times = np.bincount(annotators[shared], minlength=count)
    return np.divide(totals, times, out=np.full(count, np.nan), where=times > 0)


def _even_odds_p(successes: int, trials: int) -> float:
    from scipy.stats import binomtest

    return float(binomtest(successes, trials).pvalue)


def _in_time(answers: Sequence[tuple[str, Hashable]]) -> tuple[int | None, float | None]:
    """Longest run of equal answers and median seconds between answers; None where the times do not say what
    came after what."""
    try:
        moments = [datetime.fromisoformat(time).timestamp() for time, _ in answers]
    except ValueError:  # no time, or none that we know
        return None, None
    if len(set(moments)) < 2:
        return None, None
    run = max(len(list(equal)) for _, equal in itertools.groupby(answer for _, answer in answers))
    gaps = [gap for one, two in itertools.pairwise(moments) if 0 < (gap := two - one) <= _BREAK_SECONDS]
    return run, median(gaps) if gaps else None


def _overlap(
    items: NDArray[np.int64], annotators: NDArray[np.int64], most: int
) -> tuple[tuple[int, ...], ...]:
    judged = np.zeros((most, int(items.max()) + 1), dtype=np.float32)  # whole numbers up to 2^24 are exact
    judged[annotators[annotators < most], items[annotators < most]] = 1.0
    return tuple(tuple(int(shared) for shared in row) for row in judged @ judged.T)
