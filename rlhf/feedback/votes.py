"""From judgements to votes: rankings, ratings, labels and edits are read as votes for one response over
another. What several votes on the same two responses come to is settled elsewhere."""

import difflib
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rlhf.feedback.aggregation.bradley_terry import bradley_terry, wins_of_rankings
from rlhf.feedback.aggregation.dawid_skene import dawid_skene
from rlhf.feedback.settings_aggregation import NominalMethod

EQUAL = 1e-9
"""Figures closer than this count as equal: sums of floats differ in their last bits."""

NAMELESS = "unknown"
"""Annotator of judgements whose author nobody recorded: several people under one name."""


@dataclass(frozen=True, slots=True)
class Vote:
    """One judgement that prefers a response to another; responses carry no surrounding whitespace."""

    prompt: str
    """Hash of the prompt."""
    preferred: str
    other: str
    record_id: str
    tie: bool = False
    margin: float | None = None
    """By how much it is preferred, on the scale of the judgement, where that is known."""
    annotator: str = NAMELESS
    swapped: bool = False
    """Whether the preferred response was the second of the two as they were shown."""
    certainty: float = 1.0
    """Probability of the vote being right, where it is itself the outcome of a model."""

    @property
    def shown(self) -> tuple[str, str]:
        """The two responses in the order in which they were shown."""
        return (self.other, self.preferred) if self.swapped else (self.preferred, self.other)


@dataclass(frozen=True, slots=True)
class Ranking:
    """One annotator's ranks of several responses to a prompt; 1 is best, ties are equal ranks."""

    prompt: str
    question: str
    responses: Sequence[str]
    ranks: Sequence[int]
    record_id: str
    annotator: str = NAMELESS


def votes_from_ranking(ranking: Ranking, which: Literal["all", "adjacent"]) -> Iterator[Vote]:
    """A vote for each two responses of different rank, or for neighbours in rank only; the margin is the
    number of ranks between them, equal ranks counted once."""
    by_rank: dict[int, list[int]] = defaultdict(list)
    for at, rank in enumerate(ranking.ranks):
        by_rank[rank].append(at)
    levels = list(enumerate(by_rank[rank] for rank in sorted(by_rank)))
    steps = itertools.pairwise(levels) if which == "adjacent" else itertools.combinations(levels, 2)
    for (high, better), (low, worse) in steps:
        for preferred, other in itertools.product(better, worse):
            yield Vote(
                ranking.prompt,
                ranking.responses[preferred],
                ranking.responses[other],
                ranking.record_id,
                margin=float(low - high),
                annotator=ranking.annotator,
                swapped=preferred > other,
            )


def votes_from_consensus(
    rankings: Iterable[Ranking], which: Literal["all", "adjacent"]
) -> tuple[list[Vote], Counter[str]]:
    """Votes of one Bradley-Terry model over all rankings of responses to a prompt and question: between every
    two responses that somebody ranked, or between neighbours in strength only. The margin is the difference
    of log-strengths, the certainty what the model makes of it."""
    groups: dict[tuple[str, str], list[Ranking]] = defaultdict(list)
    for ranking in rankings:
        groups[ranking.prompt, ranking.question].append(ranking)
    votes: list[Vote] = []
    left_out: Counter[str] = Counter()
    for (prompt, _), group in sorted(groups.items()):
        responses = sorted({response for ranking in group for response in ranking.responses})
        ranks = [dict(zip(ranking.responses, ranking.ranks, strict=True)) for ranking in group]
        wins = wins_of_rankings(sorted(ranks, key=lambda ranks: sorted(ranks.items())), responses)
        strengths = bradley_terry(wins)
        order = sorted(range(len(responses)), key=lambda at: (-strengths[at], responses[at]))
        chosen = itertools.pairwise(order) if which == "adjacent" else itertools.combinations(order, 2)
        for better, worse in chosen:
            margin = float(strengths[better] - strengths[worse])
            if not wins[better, worse] + wins[worse, better]:
                continue
            if margin < 1e-6:
                left_out["responses of equal strength"] += 1
                continue
            record = min(ranking.record_id for ranking in group)
            certainty = 1.0 / (1.0 + math.exp(-margin))
            votes.append(
                Vote(
                    prompt,
                    responses[better],
                    responses[worse],
                    record,
                    margin=margin,
                    annotator="all rankings",
                    certainty=certainty,
                )
            )
    return votes, left_out


@dataclass(frozen=True, slots=True)
class Score:
    """A number or verdict that one response got: ``value`` is a rating, or 1 for good and 0 for bad."""

    prompt: str
    question: str
    response: str
    value: float
    record_id: str
    annotator: str = NAMELESS


def votes_from_ratings(scores: Iterable[Score], gap: float, most: int) -> tuple[list[Vote], Counter[str]]:
    """Votes between responses to one prompt and question whose mean ratings are at least ``gap`` apart; the
    margin is the difference. Of more than ``most`` pairs of a prompt, those furthest apart are kept."""
    votes: list[Vote] = []
    left_out: Counter[str] = Counter()
    for (prompt, _), means in mean_scores(scores).items():
        found = []
        for one, two in itertools.combinations(sorted(means), 2):
            (rating_one, id_one), (rating_two, id_two) = means[one], means[two]
            margin = abs(rating_one - rating_two)
            # Means of equal ratings may differ in the last bit.
            if margin + EQUAL < gap:
                left_out["ratings closer than rating_gap"] += 1
                continue
            preferred, other = (one, two) if rating_one > rating_two else (two, one)
            found.append(
                Vote(prompt, preferred, other, min(id_one, id_two), margin=margin, annotator="mean ratings")
            )
        found.sort(key=lambda vote: (-(vote.margin or 0.0), vote.preferred, vote.other))
        votes += found[:most]
        left_out["beyond max_pairs_per_prompt"] += len(found[most:])
    return votes, +left_out


def votes_from_labels(
    scores: Iterable[Score], most: int, method: NominalMethod = "majority", *, smoothing: float = 2.0
) -> tuple[list[Vote], Counter[str]]:
    """Votes for responses called good over responses to the same prompt and question called bad, once their
    labels are settled. Of more than ``most`` pairs of a prompt, a selection that uses each response about
    equally often."""
    votes: list[Vote] = []
    left_out: Counter[str] = Counter()
    for (prompt, _), shares in settled_labels(scores, method, smoothing=smoothing).items():
        good = [response for response in sorted(shares) if shares[response][0] > 0.5]
        bad = [response for response in sorted(shares) if shares[response][0] < 0.5]
        left_out["as many good as bad labels"] += len(shares) - len(good) - len(bad)
        if not good or not bad:
            left_out["labelled responses without a counterpart"] += len(good) + len(bad)
            continue
        for preferred, other in itertools.islice(_diagonals(good, bad), most):
            (high, id_one), (low, id_two) = shares[preferred], shares[other]
            right, wrong = high * (1.0 - low), low * (1.0 - high)
            votes.append(
                Vote(
                    prompt,
                    preferred,
                    other,
                    min(id_one, id_two),
                    annotator="settled labels",
                    certainty=right / (right + wrong),
                )
            )
        left_out["beyond max_pairs_per_prompt"] += max(0, len(good) * len(bad) - most)
    return votes, +left_out


def votes_from_discarded(
    accepted: Iterable[Score], discarded: Iterable[Score], most: int
) -> tuple[list[Vote], Counter[str]]:
    """Votes for responses that were submitted over responses to the same prompt and question that were
    discarded; of more than ``most`` pairs of a prompt, a selection that uses each about equally often. What
    is on both lists has no say."""
    sides: dict[tuple[str, str], tuple[dict[str, str], dict[str, str]]] = defaultdict(lambda: ({}, {}))
    for side, scores in enumerate((accepted, discarded)):
        for score in scores:
            records = sides[score.prompt, score.question][side]
            records[score.response] = min(records.get(score.response, score.record_id), score.record_id)
    votes: list[Vote] = []
    left_out: Counter[str] = Counter()
    for (prompt, _), (good, bad) in sorted(sides.items()):
        if both := good.keys() & bad.keys():
            left_out["submitted and discarded"] += len(both)
        kept, dropped = sorted(good.keys() - both), sorted(bad.keys() - both)
        for one, other in itertools.islice(_diagonals(kept, dropped), most):
            votes.append(Vote(prompt, one, other, min(good[one], bad[other]), annotator="status"))
        left_out["beyond max_pairs_per_prompt"] += max(0, len(kept) * len(dropped) - most)
    return votes, +left_out


def _diagonals(good: Sequence[str], bad: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The diagonals of the good × bad table: each takes every good response once."""
    return ((one, bad[(at + shift) % len(bad)]) for shift in range(len(bad)) for at, one in enumerate(good))


def settled_labels(
    scores: Iterable[Score], method: NominalMethod, *, smoothing: float = 2.0
) -> Mapping[tuple[str, str], dict[str, tuple[float, str]]]:
    """Share of "good" among a response's labels, or by Dawid-Skene its probability, with the smallest record
    id, by (prompt, question) and response."""
    if method == "majority":
        return mean_scores(scores)
    groups: dict[tuple[str, str], list[Score]] = defaultdict(list)
    for score in scores:
        groups[score.question, score.annotator].append(score)
    by_question: dict[str, list[Score]] = defaultdict(list)
    for (question, _), own in sorted(groups.items()):
        by_question[question] += sorted(own, key=lambda s: (s.prompt, s.response, s.value, s.record_id))
    settled: dict[tuple[str, str], dict[str, tuple[float, str]]] = defaultdict(dict)
    for question, own in by_question.items():
        keys = sorted({(score.prompt, score.response) for score in own})
        names = sorted({score.annotator for score in own})
        item = {key: index for index, key in enumerate(keys)}
        number = {name: index for index, name in enumerate(names)}
        records: dict[tuple[str, str], str] = {}
        for score in own:
            key = score.prompt, score.response
            records[key] = min(records.get(key, score.record_id), score.record_id)
        fitted = dawid_skene(
            np.array([item[score.prompt, score.response] for score in own]),
            np.array([number[score.annotator] for score in own]),
            np.array([int(score.value) for score in own]),
            label_count=2,
            smoothing=smoothing,
        )
        for (prompt, response), good in zip(keys, fitted.posterior[:, 1].tolist(), strict=True):
            settled[prompt, question][response] = good, records[prompt, response]
    return dict(sorted(settled.items()))


def mean_scores(scores: Iterable[Score]) -> Mapping[tuple[str, str], dict[str, tuple[float, str]]]:
    """Mean value and smallest record id by (prompt, question) and response."""
    values: dict[tuple[str, str], dict[str, list[Score]]] = defaultdict(lambda: defaultdict(list))
    for score in scores:
        values[score.prompt, score.question][score.response].append(score)
    return {
        group: {
            # Sorted, because a sum of floats depends on its order.
            response: (sum(sorted(s.value for s in own)) / len(own), min(s.record_id for s in own))
            for response, own in responses.items()
        }
        for group, responses in sorted(values.items())
    }


def edit_distance(original: str, edit: str) -> float:
    """Share of words that an edit changed, 0 for none and 1 for all: one less the ratio of
    :class:`difflib.SequenceMatcher` over words."""
    return 1.0 - difflib.SequenceMatcher(None, original.split(), edit.split(), autojunk=False).ratio()
