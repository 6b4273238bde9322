"""Toxicity: how many answers are toxic, to prompts of a file or to the held-out prompts themselves?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlhf.errors import DataError
from rlhf.evaluation.evidence import Role
from rlhf.evaluation.suites.figures import (
    Estimator,
    SuiteResult,
    complete_items,
    examples,
    numbered,
    paired_figure,
    pick,
)
from rlhf.evaluation.suites.files import drawn, read_rows
from rlhf.evaluation.suites.respondent import Respondent
from rlhf.evaluation.suites.scorers import Scorers
from rlhf.evaluation.suites.settings import ToxicitySettings

NAME = "toxicity"
_KEY = "toxicity.files"
_ABOUT = (
    "The score of each answer, read without its prompt, and the share of answers at or above the threshold. "
    "In the manner of Gehman et al. 2020 (RealToxicityPrompts, arXiv:2009.11462), with one answer a prompt "
    "instead of the worst of 25. The built-in scorer is a list of English insults, obscenities and threats: "
    "it misses slurs, irony and everything polite; classifiers in turn take the mention of minorities for "
    "toxicity more often than they should (Dixon et al. 2018, doi:10.1145/3278721.3278729)."
)
_SHOWN = 4


class Toxicity:
    """The suite over its files, or over answers that the evaluation has at hand.

    Raises:
        DataError: a file has no prompts.
    """

    def __init__(self, settings: ToxicitySettings, seed: int, scorers: Scorers) -> None:
        prompts = [prompt for path in settings.files for prompt in load_prompts(path)]
        self.items = drawn(prompts, settings.max_items, seed)
        self._settings, self._seed, self._scorers = settings, seed, scorers

    def ask(self, model: Respondent) -> Sequence[str | None]:
        """The continuation of each prompt as plain text; nothing without files."""
        return model.answers(self.items) if self.items else []

    def result(self, answers: Mapping[Role, Sequence[str | None]], estimator: Estimator) -> SuiteResult:
        """Share and mean over the prompts of the files."""
        kept = complete_items(NAME, answers)
        given = {role: pick(a, kept) for role, a in answers.items()}
        result = self._judged(given, [self.items[i] for i in kept], estimator)
        return result

    def result_of_samples(
        self, samples: Sequence[Mapping[str, Any]], roles: Sequence[Role], estimator: Estimator
    ) -> SuiteResult:
        """The same over the evaluation's own answers.

        Args:
            samples: rows of :class:`rlhf.evaluation.policy.PolicyEvaluationResult`.
        """
        rows = drawn(samples, self._settings.max_items, self._seed)
        given = {role: [str(row[f"{role}_completion"]) for row in rows] for role in roles}
        return self._judged(given, [str(row["record_id"]) for row in rows], estimator)

    def _judged(
        self, given: Mapping[Role, Sequence[str]], prompts: Sequence[str], estimator: Estimator
    ) -> SuiteResult:
        scores = {role: self._scorers(self._settings.scorer, texts) for role, texts in given.items()}
        clusters = numbered(prompts)
        worst = np.argsort(-scores["policy"], kind="stable")[:_SHOWN]
        return SuiteResult(
            suite=NAME,
            title="Toxicity",
            about=_ABOUT,
            items=len(prompts),
            left_out=max(0, len(self.items) - len(prompts)),
            figures=(
                paired_figure(
                    "toxic_share",
                    f"share of answers with a score of at least {self._settings.threshold:g}",
                    {role: (s >= self._settings.threshold).astype(float) for role, s in scores.items()},
                    clusters,
                    estimator,
                ),
                paired_figure("score", "mean score", scores, clusters, estimator, share=False),
            ),
            examples=examples(prompts, given, worst),
        )


def load_prompts(path: Path) -> list[str]:
    """Prompts of a .jsonl file: ``prompt`` as a text, or as RealToxicityPrompts' object with ``text``.

    Raises:
        DataError: a row has neither.
    """
    found = []
    for place, row in read_rows(path, ("prompt",), key=_KEY):
        prompt = row["prompt"].get("text") if isinstance(row["prompt"], dict) else row["prompt"]
        if not isinstance(prompt, str) or not prompt.strip():
            raise DataError(
                f"evaluation.suites.{_KEY}: {place} has no text in prompt; repair or drop the row."
            )
        found.append(prompt)
    return found
