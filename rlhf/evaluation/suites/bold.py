"""BOLD: how do texts about groups of people go on, and does their tone depend on the group?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlhf.errors import DataError
from rlhf.evaluation.evidence import Role
from rlhf.evaluation.suites.figures import (
    Estimator,
    Figure,
    SuiteResult,
    Table,
    complete_items,
    examples,
    numbered,
    paired_figure,
    pick,
    spread,
)
from rlhf.evaluation.suites.files import drawn, read_json
from rlhf.evaluation.suites.respondent import Respondent
from rlhf.evaluation.suites.scorers import Scorers
from rlhf.evaluation.suites.settings import BOLDSettings

NAME = "bold"
_KEY = "bold.files"
_ABOUT = (
    "Beginnings of sentences about people of different groups, from Wikipedia, that the model continues as "
    "plain text; a scorer judges the continuation without its beginning (Dhamala et al. 2021, "
    "arXiv:2101.11718). The gap is the largest difference between the means of two groups; equal groups "
    "differ in a sample, too, so that it lies above 0 even without bias. Scores are no better than the "
    "scorer: the built-in word list is coarse."
)
_SHOWN = 4


@dataclass(frozen=True)
class Beginning:
    """The beginning of a sentence about somebody."""

    text: str
    group: str
    entity: str


class BOLD:
    """The suite over its files.

    Raises:
        DataError: a file is not as published.
    """

    def __init__(self, settings: BOLDSettings, seed: int, scorers: Scorers) -> None:
        beginnings = [beginning for path in settings.files for beginning in load_beginnings(path)]
        self.items = drawn(beginnings, settings.max_items, seed)
        self._names, self._scorers = settings.scorers, scorers

    def ask(self, model: Respondent) -> Sequence[str | None]:
        """The continuation of each beginning."""
        return model.answers([beginning.text for beginning in self.items])

    def result(self, answers: Mapping[Role, Sequence[str | None]], estimator: Estimator) -> SuiteResult:
        """Mean and gap by scorer, and means by group, with persons as the independent units."""
        kept = complete_items(NAME, answers)
        beginnings = [self.items[i] for i in kept]
        given = {role: pick(a, kept) for role, a in answers.items()}
        clusters = numbered([(b.group, b.entity) for b in beginnings])
        groups = np.array([b.group for b in beginnings])
        figures: list[Figure] = []
        tables = []
        for name in self._names:
            scores = {role: self._scorers(name, texts) for role, texts in given.items()}
            figures.append(
                paired_figure(name, f"mean {name} score", scores, clusters, estimator, share=False)
            )
            by_group = {
                role: {
                    str(g): _entity_means(s[groups == g], clusters[groups == g]) for g in np.unique(groups)
                }
                for role, s in scores.items()
            }
            gaps = {role: estimator.gap(list(means.values())) for role, means in by_group.items()}
            figures.append(
                Figure(
                    f"{name}_gap",
                    f"largest difference of {name} between groups",
                    {role: e for role, e in gaps.items() if e is not None},
                )
            )
            tables.append(
                Table(
                    f"Mean {name} by group",
                    ("group", "beginnings", *answers),
                    [
                        [
                            str(group),
                            int((groups == group).sum()),
                            *(float(m[str(group)].mean()) for m in by_group.values()),
                        ]
                        for group in np.unique(groups)
                    ],
                )
            )
        return SuiteResult(
            suite=NAME,
            title="Texts about groups: BOLD",
            about=_ABOUT,
            items=len(beginnings),
            left_out=len(self.items) - len(beginnings),
            figures=figures,
            tables=tables,
            examples=examples([b.text for b in beginnings], given, spread(len(beginnings), _SHOWN)),
        )


def load_beginnings(path: Path) -> list[Beginning]:
    """The beginnings of one of the publishers' ``*_prompt.json`` files.

    Raises:
        DataError: it is not an object of groups, each with entities and their list of beginnings.
    """
    value = read_json(path, key=_KEY)
    try:
        found = [
            Beginning(str(text), str(group), str(entity))
            for group, entities in value.items()
            for entity, texts in entities.items()
            for text in texts
        ]
    except AttributeError as error:
        raise DataError(
            f"evaluation.suites.{_KEY}: {path} is not an object of groups with entities and their lists of "
            "beginnings; take the publishers' *_prompt.json."
        ) from error
    # A tokenizer makes a token of the last space that no text has before a word.
    return [Beginning(b.text.rstrip(), b.group, b.entity) for b in found if b.text.strip()]


def _entity_means(values: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    numbers = np.unique(clusters, return_inverse=True)[1]
    means: np.ndarray = np.bincount(numbers, weights=values) / np.bincount(numbers)
    return means
