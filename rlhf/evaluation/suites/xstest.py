"""XSTest: are harmless prompts refused because they look harmful, and are harmful ones refused?"""

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
    complete_items,
    examples,
    means_by_group,
    paired_figure,
    pick,
    spread,
)
from rlhf.evaluation.suites.files import drawn, read_rows, text_of
from rlhf.evaluation.suites.refusals import RefusalDetector
from rlhf.evaluation.suites.respondent import Respondent
from rlhf.evaluation.suites.settings import XSTestSettings

NAME = "xstest"
_KEY = "xstest.files"
_ABOUT = (
    "Harmless prompts that look harmful, and harmful ones that contrast with them (Röttger et al. 2024, "
    "arXiv:2308.01263). Refusals of the first are too many, refusals of the second are right; the contrast "
    "is their difference, 1 at best. Refusals are found by their English wording, not by people as in the "
    "paper: an answer that is no refusal may still be of no use, and a model that answers nothing sensible "
    "refuses nothing."
)
_SHOWN = 4


@dataclass(frozen=True)
class XSTestPrompt:
    """One prompt with the publishers' type."""

    text: str
    kind: str
    safe: bool


class XSTest:
    """The suite over its files.

    Raises:
        DataError: a file is not as published, or lacks prompts of one side.
    """

    def __init__(self, settings: XSTestSettings, seed: int) -> None:
        prompts = [prompt for path in settings.files for prompt in load_prompts(path)]
        self.items = drawn(prompts, settings.max_items, seed)
        if len({prompt.safe for prompt in self.items}) < 2:
            raise DataError(
                "evaluation.suites.xstest: all prompts are of one label; it needs safe and unsafe ones, so "
                "give the publishers' whole file or raise max_items."
            )
        self._refuses = RefusalDetector(settings.refusal_patterns)

    def ask(self, model: Respondent) -> Sequence[str | None]:
        """The answer to each prompt."""
        return model.answers([model.question(prompt.text) for prompt in self.items])

    def result(self, answers: Mapping[Role, Sequence[str | None]], estimator: Estimator) -> SuiteResult:
        """Refusals of both sides, and by type."""
        kept = complete_items(NAME, answers)
        prompts = [self.items[i] for i in kept]
        given = {role: pick(a, kept) for role, a in answers.items()}
        refused = {role: np.array([float(self._refuses(t)) for t in texts]) for role, texts in given.items()}
        safe = np.array([p.safe for p in prompts])
        figures: list[Figure] = []
        for name, rows in (("safe", safe), ("unsafe", ~safe)):
            if rows.sum() > 1:
                values = {role: r[rows] for role, r in refused.items()}
                clusters = np.arange(int(rows.sum()))
                meaning = f"share of {name} prompts that are refused"
                figures.append(paired_figure(f"refusals_{name}", meaning, values, clusters, estimator))
        if len(figures) == 2:
            contrasts = {role: estimator.contrast(r[~safe], r[safe]) for role, r in refused.items()}
            figures.append(Figure("refusal_contrast", "refusals of unsafe less those of safe", contrasts))
        kinds = np.array([f"{p.kind} ({'safe' if p.safe else 'unsafe'})" for p in prompts])
        return SuiteResult(
            suite=NAME,
            title="Over-refusal: XSTest",
            about=_ABOUT,
            items=len(prompts),
            left_out=len(self.items) - len(prompts),
            figures=figures,
            tables=(means_by_group("Share of refusals by type", ("type", "prompts"), kinds, refused),),
            examples=examples([p.text for p in prompts], given, spread(len(prompts), _SHOWN)),
        )


def load_prompts(path: Path) -> list[XSTestPrompt]:
    """The prompts of ``xstest_prompts.csv`` or of its rows as JSON Lines; of older versions without labels,
    types that begin with ``contrast`` are the unsafe ones.

    Raises:
        DataError: a column is absent or empty, or a label is neither safe nor unsafe.
    """
    found = []
    for place, row in read_rows(path, ("prompt", "type"), key=_KEY):
        kind = text_of(row, "type", place, key=_KEY)
        label = row.get("label") or ("unsafe" if kind.startswith("contrast") else "safe")
        if label not in ("safe", "unsafe"):
            raise DataError(
                f"evaluation.suites.{_KEY}: {place} has the label {label!r}; it must be safe or unsafe."
            )
        found.append(XSTestPrompt(text_of(row, "prompt", place, key=_KEY), kind, label == "safe"))
    return found
