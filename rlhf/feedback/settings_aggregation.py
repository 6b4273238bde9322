"""Settings of aggregation: how the judgements of several annotators become one. Light on purpose, as
``rlhf.feedback.settings`` is."""

from typing import Literal

from pydantic import Field

from rlhf.settings import Settings

NominalMethod = Literal["majority", "dawid_skene"]


class AggregationSettings(Settings):
    """How several annotators' judgements of one question become one, and what columns say of their
    agreement."""

    comparisons: NominalMethod = "majority"
    """How votes on the same two responses are settled. ``majority`` counts all annotators alike;
    ``dawid_skene`` estimates how reliable each is (and in which direction he errs) from his overlap with the
    others."""
    labels: NominalMethod = "majority"
    """How labels of the same response are settled into good or bad; as for ``comparisons``."""
    rankings: Literal["votes", "bradley_terry"] = "votes"
    """``votes``: each ranking votes on its pairs by itself. ``bradley_terry``: all rankings of a prompt's
    responses are fitted by one Bradley-Terry model first, whose order then votes."""
    smoothing: float = Field(default=2.0, ge=0)
    """Dawid-Skene: judgements, per true label, that each annotator is lent from the average annotator. More
    trusts annotators of few judgements less; 0 is the maximum likelihood of Dawid & Skene (1979)."""
    weight: Literal["one", "confidence"] = "one"
    """What the ``weight`` column holds. ``confidence`` is 2·agreement − 1: 1 where annotators are unanimous,
    0 where they are divided."""
    margin: Literal["judgement", "log_odds"] = "judgement"
    """What the ``margin`` column holds. ``judgement``: the distance that the judgement itself states, on its
    own scale (the gap of mean ratings, ranks between two ranked responses, the difference of Bradley-Terry
    log-strengths), 0 for plain comparisons. ``log_odds``: log(p / (1 − p)) of the agreement p, each side with
    half a vote more, for every pair."""
