"""Instruction adherence: is what a prompt asks for, and a program can verify, in the answer?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlhf.errors import DataError
from rlhf.evaluation.evidence import Role
from rlhf.evaluation.suites.constraints import (
    check_instruction,
    followed,
    loosely_followed,
)
from rlhf.evaluation.suites.figures import (
    Estimator,
    SuiteResult,
    complete_items,
    examples,
    means_by_group,
    numbered,
    paired_figure,
    pick,
)
from rlhf.evaluation.suites.files import drawn, read_rows, text_of
from rlhf.evaluation.suites.instruction_prompts import PROMPTS
from rlhf.evaluation.suites.respondent import Respondent
from rlhf.evaluation.suites.settings import InstructionsSettings

NAME = "instructions"
_KEY = "instructions.files"
_ABOUT = (
    "Prompts whose instructions a program can verify: length, format, keywords, case, language (Zhou et al. "
    "2023, IFEval, arXiv:2311.07911). Strict takes the answer as it is; loose forgives a line before or "
    "after it, and Markdown's asterisks. By prompt, all instructions must be kept; by instruction, each "
    "counts. It says nothing about whether the answer is right or useful."
)
_SHOWN = 4


@dataclass(frozen=True)
class InstructedPrompt:
    """A prompt with the instructions in it: ids, and for each its arguments."""

    text: str
    instructions: tuple[tuple[str, Mapping[str, Any]], ...]


class Instructions:
    """The suite over its files, or over the built-in prompts.

    Raises:
        DataError: a file is not as published, or names an instruction that is not known.
    """

    def __init__(self, settings: InstructionsSettings, seed: int) -> None:
        prompts = [prompt for path in settings.files for prompt in load_prompts(path)]
        built_in = [InstructedPrompt(text, asked) for text, asked in PROMPTS]
        self.items = drawn(prompts if settings.files else built_in, settings.max_items, seed)

    def ask(self, model: Respondent) -> Sequence[str | None]:
        """The answer to each prompt."""
        return model.answers([model.question(prompt.text) for prompt in self.items])

    def result(self, answers: Mapping[Role, Sequence[str | None]], estimator: Estimator) -> SuiteResult:
        """The four accuracies of the paper, and strict accuracy by kind of instruction."""
        kept = complete_items(NAME, answers)
        prompts = [self.items[i] for i in kept]
        given = {role: pick(a, kept) for role, a in answers.items()}
        # a prompt's instructions stand together: they are one cluster
        owner = np.array([i for i, prompt in enumerate(prompts) for _ in prompt.instructions])
        kinds = np.array([name.split(":")[0] for prompt in prompts for name, _ in prompt.instructions])
        figures = []
        strict: dict[Role, np.ndarray] = {}
        for mode, holds in (("strict", followed), ("loose", loosely_followed)):
            kept_by: dict[Role, np.ndarray] = {
                role: np.array(
                    [
                        float(holds(name, text, arguments))
                        for prompt, text in zip(prompts, texts, strict=True)
                        for name, arguments in prompt.instructions
                    ]
                )
                for role, texts in given.items()
            }
            strict = strict or kept_by
            whole = {role: _all_kept(values, owner, len(prompts)) for role, values in kept_by.items()}
            texts = numbered([prompt.text for prompt in prompts])
            figures += [
                paired_figure(
                    f"prompt_{mode}",
                    f"share of prompts with all instructions kept, {mode}",
                    whole,
                    texts,
                    estimator,
                ),
                paired_figure(
                    f"instruction_{mode}",
                    f"share of instructions kept, {mode}",
                    kept_by,
                    texts[owner],
                    estimator,
                ),
            ]
        policy = _all_kept(strict["policy"], owner, len(prompts))
        failed = np.argsort(policy, kind="stable")[:_SHOWN]
        return SuiteResult(
            suite=NAME,
            title="Instruction adherence",
            about=_ABOUT,
            items=len(prompts),
            left_out=len(self.items) - len(prompts),
            figures=figures,
            tables=(
                means_by_group(
                    "Share of instructions kept by kind, strict", ("kind", "instructions"), kinds, strict
                ),
            ),
            examples=examples([prompt.text for prompt in prompts], given, failed),
        )


def load_prompts(path: Path) -> list[InstructedPrompt]:
    """Prompts in IFEval's layout.

    Raises:
        DataError: a row lacks a column, has another number of arguments than of instructions, or names an
            instruction that is not known.
    """
    found = []
    for place, row in read_rows(path, ("prompt", "instruction_id_list", "kwargs"), key=_KEY):
        names, arguments = row["instruction_id_list"], row["kwargs"]
        lists = isinstance(names, list) and isinstance(arguments, list)
        if not lists or not names or len(names) != len(arguments):
            raise DataError(
                f"evaluation.suites.{_KEY}: {place} needs instruction_id_list and kwargs of one length, not "
                "empty; repair or drop the row."
            )
        given = [{k: v for k, v in (a or {}).items() if v is not None} for a in arguments]
        for name, keywords in zip(names, given, strict=True):
            try:
                check_instruction(name, keywords)
            except DataError as error:
                raise DataError(f"evaluation.suites.{_KEY}: {place}: {error}") from error
        found.append(
            InstructedPrompt(text_of(row, "prompt", place, key=_KEY), tuple(zip(names, given, strict=True)))
        )
    return found


def _all_kept(values: np.ndarray, owner: np.ndarray, prompts: int) -> np.ndarray:
    """1 for prompts all of whose instructions are kept, else 0."""
    broken = np.bincount(owner, weights=1.0 - values, minlength=prompts)
    kept: np.ndarray = (broken == 0).astype(float)
    return kept
