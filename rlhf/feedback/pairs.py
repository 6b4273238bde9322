"""Comparisons: the votes on the same two responses settled into one choice, by majority or by a model of the
annotators."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rlhf.feedback.aggregation.dawid_skene import dawid_skene
from rlhf.feedback.settings_aggregation import NominalMethod
from rlhf.feedback.votes import EQUAL, Vote


@dataclass(frozen=True, slots=True)
class Pair:
    """A settled comparison."""

    prompt: str
    chosen: str
    rejected: str
    record_id: str
    """The smallest record id among its votes."""
    agreement: float
    """By majority: the share of its votes among those that are no ties. By Dawid-Skene: the probability of
    the choice, given that it is no tie. Above 0.5 and at most 1."""
    margin: float
    """Mean margin of the votes for the choice, 0 where none has one."""
    votes: int = 1
    """Number of votes that are no ties."""

    @property
    def confidence(self) -> float:
        """``2·agreement − 1``."""
        return 2.0 * self.agreement - 1.0

    @property
    def log_odds(self) -> float:
        """Logarithm of the odds of the agreement, with half a vote added to both sides so that it stays
        finite (Haldane 1956, Annals of Human Genetics 20:309)."""
        return math.log((self.agreement * self.votes + 0.5) / ((1.0 - self.agreement) * self.votes + 0.5))


@dataclass(frozen=True, slots=True)
class _Question:
    """All votes on two responses, and what they come to."""

    prompt: str
    first: str
    second: str
    votes: list[Vote]
    for_first: float
    """Votes, or probability, in favour of ``first``; the same for ``second``."""
    for_second: float
    tie: float
    """Probability of a tie; 0 for a majority, in which ties have no say."""


def settle(
    votes: Iterable[Vote], method: NominalMethod = "majority", *, smoothing: float = 2.0
) -> tuple[list[Pair], Counter[str]]:
    """One comparison from all votes on each (prompt, two responses), whichever side a response was shown on.

    Args:
        votes: in any order.
        method: ``majority``, in which ties have no say, or ``dawid_skene``, for which a tie is a label of its
            own and annotators are told apart by name.
        smoothing: of Dawid-Skene, see :func:`~rlhf.feedback.aggregation.dawid_skene.dawid_skene`.

    Returns:
        The pairs in order of prompt and responses, and how many were left out for which reason.
    """
    groups: dict[tuple[str, str, str], list[Vote]] = defaultdict(list)
    left_out: Counter[str] = Counter()
    for vote in votes:
        if vote.preferred == vote.other:
            left_out["both sides are equal"] += 1
        else:
            first, second = sorted((vote.preferred, vote.other))
            groups[vote.prompt, first, second].append(vote)
    ordered = sorted(groups.items())
    questions = _by_majority(ordered) if method == "majority" else _by_dawid_skene(ordered, smoothing)
    pairs = []
    for question in questions:
        for_first, for_second = question.for_first, question.for_second
        if question.tie >= max(for_first, for_second) or not (for_first or for_second):
            left_out["ties only" if all(vote.tie for vote in question.votes) else "settled as a tie"] += 1
            continue
        if abs(for_first - for_second) < EQUAL:
            left_out["no majority"] += 1
            continue
        chosen, rejected = question.first, question.second
        if for_second > for_first:
            chosen, rejected = rejected, chosen
        decided = [vote for vote in question.votes if not vote.tie]
        margins = sorted(
            vote.margin for vote in decided if vote.preferred == chosen and vote.margin is not None
        )
        pairs.append(
            Pair(
                prompt=question.prompt,
                chosen=chosen,
                rejected=rejected,
                record_id=min(vote.record_id for vote in question.votes),
                agreement=max(for_first, for_second) / (for_first + for_second),
                margin=sum(margins) / len(margins) if margins else 0.0,
                votes=max(1, len(decided)),
            )
        )
    return pairs, left_out


_Groups = Sequence[tuple[tuple[str, str, str], list[Vote]]]


def _by_majority(groups: _Groups) -> Iterator[_Question]:
    for (prompt, first, second), votes in groups:
        decided = [vote for vote in votes if not vote.tie]
        # Sorted, because a sum of floats depends on its order.
        for_first = sum(sorted(v.certainty if v.preferred == first else 1.0 - v.certainty for v in decided))
        yield _Question(prompt, first, second, votes, for_first, len(decided) - for_first, 0.0)


def _by_dawid_skene(groups: _Groups, smoothing: float) -> Iterator[_Question]:
    """Labels are "the first shown", "the second shown" and "tie": so the model knows who prefers the first
    answer whatever it says. Where two annotators saw a pair in opposite orders, the order of the texts is
    used for both."""
    if not groups:
        return
    names = sorted({vote.annotator for _, votes in groups for vote in votes})
    number = {name: index for index, name in enumerate(names)}
    items, annotators, labels, leading = [], [], [], []
    for item, ((_, first, _), votes) in enumerate(groups):
        shown_first = {vote.shown[0] for vote in votes}
        lead = shown_first.pop() if len(shown_first) == 1 else first
        leading.append(lead)
        for vote in sorted(votes, key=lambda vote: (vote.annotator, vote.preferred, vote.tie)):
            items.append(item)
            annotators.append(number[vote.annotator])
            labels.append(2 if vote.tie else 0 if vote.preferred == lead else 1)
    fitted = dawid_skene(
        np.array(items), np.array(annotators), np.array(labels), label_count=3, smoothing=smoothing
    )
    for ((prompt, first, second), votes), lead, shares in zip(
        groups, leading, fitted.posterior.tolist(), strict=True
    ):
        for_lead, for_other, tie = shares
        for_first, for_second = (for_lead, for_other) if lead == first else (for_other, for_lead)
        yield _Question(prompt, first, second, votes, for_first, for_second, tie)
