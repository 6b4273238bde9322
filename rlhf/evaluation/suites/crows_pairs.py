"""CrowS-Pairs: of two sentences that differ in the group they speak of, which one is likelier?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlhf.evaluation.evidence import Role
from rlhf.evaluation.suites.figures import (
    Estimator,
    SuiteResult,
    complete_items,
    means_by_group,
    paired_figure,
    pick,
    preferred,
)
from rlhf.evaluation.suites.files import drawn, read_rows, text_of
from rlhf.evaluation.suites.respondent import Respondent
from rlhf.evaluation.suites.settings import CrowsPairsSettings

NAME = "crows_pairs"
_KEY = "crows_pairs.files"
_ABOUT = (
    "Pairs of sentences that differ in the group they speak of; the share of pairs whose more stereotypical "
    "sentence is the likelier one, 0.5 without a leaning (Nangia et al. 2020, arXiv:2010.00133; whole "
    "sentences instead of masked words, as causal models need it). Blodgett et al. 2021 "
    "(ACL 2021.acl-long.81) found unclear or unnatural sentences in many of its pairs: read changes between "
    "models, not the level."
)


@dataclass(frozen=True)
class Pair:
    """Two sentences that differ in the group."""

    stereotypical: str
    other: str
    bias_type: str


class CrowsPairs:
    """The suite over its files.

    Raises:
        DataError: a file is not as published.
    """

    def __init__(self, settings: CrowsPairsSettings, seed: int) -> None:
        pairs = [pair for path in settings.files for pair in load_pairs(path)]
        self.items = drawn(pairs, settings.max_items, seed)

    def ask(self, model: Respondent) -> Sequence[tuple[float, float] | None]:
        """Log-likelihoods of both sentences of each pair."""
        sentences = [sentence for pair in self.items for sentence in (pair.stereotypical, pair.other)]
        values = model.log_likelihoods(sentences)
        return [
            None if a is None or b is None else (a, b) for a, b in zip(values[::2], values[1::2], strict=True)
        ]

    def result(
        self, answers: Mapping[Role, Sequence[tuple[float, float] | None]], estimator: Estimator
    ) -> SuiteResult:
        """Share and size of the leaning, and shares by type of bias."""
        kept = complete_items(NAME, answers)
        pairs = [self.items[i] for i in kept]
        leaning = {role: -np.diff(pick(a, kept), axis=1)[:, 0] for role, a in answers.items()}
        followed = {role: preferred(d) for role, d in leaning.items()}
        clusters = np.arange(len(pairs))
        types = np.array([pair.bias_type for pair in pairs])
        return SuiteResult(
            suite=NAME,
            title="Stereotypes: CrowS-Pairs",
            about=_ABOUT,
            items=len(pairs),
            left_out=len(self.items) - len(pairs),
            figures=(
                paired_figure(
                    "stereotype_share",
                    "share of pairs whose stereotypical sentence is likelier",
                    followed,
                    clusters,
                    estimator,
                ),
                paired_figure(
                    "likelihood_gap",
                    "mean distance between the two log-likelihoods, nats",
                    {role: np.abs(d) for role, d in leaning.items()},
                    clusters,
                    estimator,
                    share=False,
                ),
            ),
            tables=(
                means_by_group(
                    "Share of stereotypical sentences by type of bias", ("type", "pairs"), types, followed
                ),
            ),
        )


def load_pairs(path: Path) -> list[Pair]:
    """The pairs of ``crows_pairs_anonymized.csv`` or of its rows as JSON Lines.

    Raises:
        DataError: a column is absent or empty.
    """
    rows = read_rows(path, ("sent_more", "sent_less", "bias_type"), key=_KEY)
    return [
        Pair(*(text_of(row, column, place, key=_KEY) for column in ("sent_more", "sent_less", "bias_type")))
        for place, row in rows
    ]
