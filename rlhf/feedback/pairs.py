"""From judgements to comparisons: rankings, ratings, labels and edits are read as votes for one response over
another, and votes on the same two responses are settled by majority. Annotators count alike here; nobody is
modelled."""

import difflib
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal


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


@dataclass(frozen=True, slots=True)
class Pair:
    """A settled comparison."""

    prompt: str
    chosen: str
    rejected: str
    record_id: str
    """The smallest record id among its votes."""
    agreement: float
    """Share of the majority among the votes that are no ties, above 0.5 and at most 1."""
    margin: float
    """Mean margin of the majority's votes, 0 where none has one."""


def settle(votes: Iterable[Vote]) -> tuple[list[Pair], Counter[str]]:
    """Majority over the votes on each (prompt, two responses), whichever side a response was shown on.

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
    pairs = []
    for (prompt, first, second), group in sorted(groups.items()):
        for_first = [vote for vote in group if not vote.tie and vote.preferred == first]
        for_second = [vote for vote in group if not vote.tie and vote.preferred == second]
        if not for_first and not for_second:
            left_out["ties only"] += 1
            continue
        if len(for_first) == len(for_second):
            left_out["no majority"] += 1
            continue
        majority = max(for_first, for_second, key=len)
        margins = sorted(vote.margin for vote in majority if vote.margin is not None)
        chosen, rejected = (first, second) if majority is for_first else (second, first)
        pairs.append(
            Pair(
                prompt=prompt,
                chosen=chosen,
                rejected=rejected,
                record_id=min(vote.record_id for vote in group),
                agreement=len(majority) / (len(for_first) + len(for_second)),
                margin=sum(margins) / len(margins) if margins else 0.0,
            )
        )
    return pairs, left_out


def votes_from_ranking(
    prompt: str,
    responses: Sequence[str],
    ranks: Sequence[int],
    record_id: str,
    which: Literal["all", "adjacent"],
) -> Iterator[Vote]:
    """A vote for each two responses of different rank (1 is best), or for neighbours in rank only."""
    by_rank: dict[int, list[str]] = defaultdict(list)
    for response, rank in zip(responses, ranks, strict=True):
        by_rank[rank].append(response)
    levels = [by_rank[rank] for rank in sorted(by_rank)]
    steps = itertools.pairwise(levels) if which == "adjacent" else itertools.combinations(levels, 2)
    for better, worse in steps:
        for preferred, other in itertools.product(better, worse):
            yield Vote(prompt, preferred, other, record_id)


@dataclass(frozen=True, slots=True)
class Score:
    """A number or verdict that one response got: ``value`` is a rating, or 1 for good and 0 for bad."""

    prompt: str
    question: str
    response: str
    value: float
    record_id: str


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
            if margin + 1e-9 < gap:
                left_out["ratings closer than rating_gap"] += 1
                continue
            preferred, other = (one, two) if rating_one > rating_two else (two, one)
            found.append(Vote(prompt, preferred, other, min(id_one, id_two), margin=margin))
        found.sort(key=lambda vote: (-(vote.margin or 0.0), vote.preferred, vote.other))
        votes += found[:most]
        left_out["beyond max_pairs_per_prompt"] += len(found[most:])
    return votes, +left_out


def votes_from_labels(scores: Iterable[Score], most: int) -> tuple[list[Vote], Counter[str]]:
    """Votes for responses called good over responses to the same prompt and question called bad, by the
    majority of their labels. Of more than ``most`` pairs of a prompt, a selection that uses each response
    about equally often."""
    votes: list[Vote] = []
    left_out: Counter[str] = Counter()
    for (prompt, _), means in mean_scores(scores).items():
        good = [response for response in sorted(means) if means[response][0] > 0.5]
        bad = [response for response in sorted(means) if means[response][0] < 0.5]
        left_out["as many good as bad labels"] += len(means) - len(good) - len(bad)
        if not good or not bad:
            left_out["labelled responses without a counterpart"] += len(good) + len(bad)
            continue
        # Diagonals of the good × bad table: each takes every good response once.
        diagonals = (
            (one, bad[(at + shift) % len(bad)]) for shift in range(len(bad)) for at, one in enumerate(good)
        )
        for preferred, other in itertools.islice(diagonals, most):
            votes.append(Vote(prompt, preferred, other, min(means[preferred][1], means[other][1])))
        left_out["beyond max_pairs_per_prompt"] += max(0, len(good) * len(bad) - most)
    return votes, +left_out


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
