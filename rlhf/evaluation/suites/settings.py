"""Which evaluation suites are run beside the comparison by rewards, and the name of every figure they report.

Light on purpose: a config is validated, and a gate's criteria are checked against the names, without torch.
A suite is a section of its own rather than an entry of a tagged list, so that a figure's name follows from
the section's and no suite can stand twice.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rlhf.models.settings_generation import GenerationSettings
from rlhf.models.settings_rewards import (
    ClassifierRewardSettings,
    EndpointSettings,
    FunctionRewardSettings,
    HTTPRewardSettings,
    RulesRewardSettings,
)
from rlhf.settings import Settings

ScorerSettings = Annotated[
    ClassifierRewardSettings | FunctionRewardSettings | RulesRewardSettings | HTTPRewardSettings,
    Field(discriminator="type"),
]
"""What gives a text a number, told apart by ``type``."""

BUILT_IN_SCORERS = ("sentiment", "toxicity")
"""Scorers by word lists that are there without a setting."""

_ROLES = ("policy", "sft", "champion")
_BASELINES = ("sft", "champion")
_Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Files = Annotated[tuple[Path, ...], Field(min_length=1)]


class _FileSuite(Settings):
    max_items: int | None = Field(default=None, ge=2)
    """Items to use, drawn by the evaluation's seed; unset uses all."""


class CrowsPairsSettings(_FileSuite):
    """Stereotypes by likelihood, pair by pair (Nangia et al. 2020, CrowS-Pairs, arXiv:2010.00133)."""

    files: Files
    """``crows_pairs_anonymized.csv`` as published, or its rows as .jsonl (each also .gz)."""


class WinoGenderSettings(_FileSuite):
    """Pronouns by occupation (Rudinger et al. 2018, arXiv:1804.09301; Perez et al. 2022,
    arXiv:2212.09251)."""

    files: Files
    """``winogenerated_examples.jsonl`` (Perez et al.) or ``templates.tsv`` (Rudinger et al.), each also
    .gz."""
    occupations: Path | None = None
    """``occupations-stats.tsv``, the share of women by occupation, which ``templates.tsv`` needs."""

    @model_validator(mode="after")
    def _templates_have_their_statistics(self) -> Self:
        if self.occupations is None and any(_is_tsv(path) for path in self.files):
            raise ValueError("templates.tsv holds no statistics; name occupations-stats.tsv in occupations")
        return self


class BBQSettings(_FileSuite):
    """Questions whose answers need, or contradict, a stereotype (Parrish et al. 2022, BBQ,
    arXiv:2110.08193)."""

    files: Files
    """The publishers' .jsonl files, one for each category (each also .gz)."""


class XSTestSettings(_FileSuite):
    """Over-refusal: harmless prompts that look harmful, and harmful ones beside them (Röttger et al. 2024,
    XSTest, arXiv:2308.01263)."""

    files: Files
    """``xstest_prompts.csv`` as published, or its rows as .jsonl (each also .gz)."""
    refusal_patterns: tuple[str, ...] = ()
    """Further regular expressions that show a refusal, such as your policy's own wording; case does not
    matter."""


class BOLDSettings(_FileSuite):
    """How texts about groups of people go on (Dhamala et al. 2021, BOLD, arXiv:2101.11718)."""

    files: Files
    """The publishers' ``*_prompt.json`` files, one for each domain (each also .gz)."""
    scorers: tuple[str, ...] = Field(default=("sentiment",), min_length=1)
    """Scorers of the completions: built-in ones or those of ``scorers``."""


class ToxicitySettings(_FileSuite):
    """How toxic answers are, by word lists or a classifier."""

    files: tuple[Path, ...] = ()
    """Prompts as .jsonl with ``prompt``, a text or RealToxicityPrompts' object with ``text`` (Gehman et al.
    2020, arXiv:2009.11462); without files the answers to the held-out prompts are judged, at no further
    cost."""
    scorer: str = "toxicity"
    """Scorer of the completions: the built-in one or one of ``scorers``."""
    threshold: float = 0.5
    """Score from which an answer counts as toxic."""


class InstructionsSettings(_FileSuite):
    """Instructions that a program can verify (Zhou et al. 2023, IFEval, arXiv:2311.07911)."""

    files: tuple[Path, ...] = ()
    """.jsonl with ``prompt``, ``instruction_id_list`` and ``kwargs`` (each also .gz); without files a small
    built-in set is used."""


class LLMJudgeSettings(EndpointSettings):
    """Pairwise judgements by a language model behind an OpenAI-compatible endpoint, each pair in both orders
    (Zheng et al. 2023, arXiv:2306.05685)."""

    url: str
    """Address of ``/chat/completions``; https, or http on this very machine. No user names, no query string,
    no keys in it."""
    model: str = Field(min_length=1)
    """Name of the model, as the endpoint knows it."""
    instructions: str | None = Field(default=None, min_length=1)
    """What the judge is told, in place of the built-in system message; it must end its answer with ``[[A]]``,
    ``[[B]]`` or ``[[C]]`` (tie)."""
    max_pairs: int | None = Field(default=100, ge=2)
    """Pairs of answers to judge against each baseline, drawn by the evaluation's seed; each costs two
    requests. Unset judges all."""
    max_tokens: int = Field(default=512, ge=1)
    """Longest answer of the judge, in its own tokens."""
    seed: int | None = None
    """Sent along for endpoints that can repeat their answers; temperature is always 0."""
    prompt_price: float = Field(default=0.0, ge=0)
    """Price of a million tokens sent, in a currency of your choice."""
    completion_price: float = Field(default=0.0, ge=0)
    """Price of a million tokens of answers, in the same currency."""
    max_cost: float | None = Field(default=None, gt=0)
    """Cost after which no further request is sent, and the evaluation fails; in the same currency."""
    max_unreadable_share: float = Field(default=0.1, ge=0, le=1)
    """Share of pairs without a readable verdict from which on the judge is not believed."""

    @model_validator(mode="after")
    def _a_limit_has_prices(self) -> Self:
        if self.max_cost is not None and not (self.prompt_price or self.completion_price):
            raise ValueError("max_cost needs prompt_price or completion_price; without them all costs are 0")
        return self


class LMEvalSettings(Settings):
    """Tasks of EleutherAI's evaluation harness, with the package ``lm-eval`` (``pip install
    rlhf-pipeline[lm-eval]``)."""

    tasks: tuple[str, ...] = Field(min_length=1)
    """Tasks by name, such as ``hellaswag``; most fetch their data from the Hugging Face hub."""
    metrics: tuple[str, ...] = Field(default=("acc",), min_length=1)
    """Metrics to report of each task; every task must have each."""
    include_path: Path | None = None
    """Folder with task files of your own."""
    fewshot: int | None = Field(default=None, ge=0)
    """Examples before each question; unset: as the task has it."""
    limit: int | None = Field(default=None, ge=1)
    """Questions of each task, the first ones; unset asks all."""


class SuitesSettings(Settings):
    """Suites of published probes; each that has a section is run on policy, SFT model and champion."""

    crows_pairs: CrowsPairsSettings | None = None
    """Stereotypes by likelihood."""
    winogender: WinoGenderSettings | None = None
    """Pronouns by occupation."""
    bbq: BBQSettings | None = None
    """Stereotypes in answers to questions."""
    xstest: XSTestSettings | None = None
    """Over-refusal."""
    bold: BOLDSettings | None = None
    """Sentiment or regard of texts about groups."""
    toxicity: ToxicitySettings | None = None
    """Toxic answers."""
    instructions: InstructionsSettings | None = None
    """Verifiable instructions."""
    llm_judge: LLMJudgeSettings | None = None
    """Pairwise judgements by a language model."""
    lm_eval: LMEvalSettings | None = None
    """Tasks of EleutherAI's evaluation harness."""

    scorers: dict[_Name, ScorerSettings] = Field(default_factory=dict)
    """Scorers of texts by name, for ``bold`` and ``toxicity``: a classifier's label, a function, rules or an
    endpoint. They see the completion without its prompt. ``sentiment`` and ``toxicity`` are there already, by
    small English word lists, unless one of that name is set here."""
    generation: GenerationSettings | None = None
    """How models answer the suites' prompts; unset: as ``evaluation.generation``."""

    @model_validator(mode="after")
    def _scorers_are_known(self) -> Self:
        used = [*(self.bold.scorers if self.bold else ()), *([self.toxicity.scorer] if self.toxicity else [])]
        known = {*BUILT_IN_SCORERS, *self.scorers}
        for name in used:
            if name not in known:
                raise ValueError(f"there is no scorer {name!r}; the scorers are {', '.join(sorted(known))}")
        return self

    @property
    def chosen(self) -> tuple[str, ...]:
        """Names of the suites that are run, in the order of the report."""
        return tuple(name for name in SUITES if getattr(self, name) is not None)

    def files(self) -> Iterator[tuple[str, Path]]:
        """Every file or folder that the suites read, after the setting that names it."""
        for name in self.chosen:
            for key in ("files", "occupations", "include_path"):
                value = getattr(getattr(self, name), key, None) or ()
                for path in value if isinstance(value, tuple) else (value,):
                    yield f"{name}.{key}", path

    def figure_names(self) -> frozenset[str]:
        """Every figure that these suites can report; those of the champion depend on there being one."""
        names = set()
        for suite in self.chosen:
            for figure in self._paired(suite):
                names |= {f"eval/{suite}/{figure}/{role}" for role in _ROLES}
                names |= {f"eval/{suite}/{figure}/difference_vs_{baseline}" for baseline in _BASELINES}
            for figure in self._unpaired(suite):
                names |= {f"eval/{suite}/{figure}/{role}" for role in _ROLES}
        if self.llm_judge:
            names |= {f"eval/llm_judge/{figure}_vs_{b}" for figure in JUDGE_FIGURES for b in _BASELINES}
        ends = {f"{name}_{end}" for name in names for end in ("low", "high")}
        plain = {f"eval/{suite}/items" for suite in self.chosen if suite != "lm_eval"}
        if self.llm_judge:
            plain |= {f"eval/llm_judge/{figure}" for figure in JUDGE_COSTS}
        return frozenset(names | ends | plain)

    def _paired(self, suite: str) -> tuple[str, ...]:
        if suite == "bold" and self.bold:
            return self.bold.scorers
        return _PAIRED_FIGURES.get(suite, ())

    def _unpaired(self, suite: str) -> tuple[str, ...]:
        if suite == "bold" and self.bold:
            return tuple(f"{scorer}_gap" for scorer in self.bold.scorers)
        if suite == "lm_eval" and self.lm_eval:
            return tuple(f"{task}_{metric}" for task in self.lm_eval.tasks for metric in self.lm_eval.metrics)
        return _UNPAIRED_FIGURES.get(suite, ())


SUITES = tuple(name for name in SuitesSettings.model_fields if name not in ("scorers", "generation"))
"""Names of all suites, which no reward may have."""

_PAIRED_FIGURES: Mapping[str, tuple[str, ...]] = {
    "crows_pairs": ("stereotype_share", "likelihood_gap"),
    "winogender": ("stereotype_share", "female_share"),
    "bbq": ("accuracy_ambiguous", "accuracy_disambiguated"),
    "xstest": ("refusals_safe", "refusals_unsafe"),
    "toxicity": ("toxic_share", "score"),
    "instructions": ("prompt_strict", "prompt_loose", "instruction_strict", "instruction_loose"),
}
_UNPAIRED_FIGURES: Mapping[str, tuple[str, ...]] = {
    "winogender": ("bls_correlation",),
    "bbq": ("bias_ambiguous", "bias_disambiguated"),
    "xstest": ("refusal_contrast",),
}
JUDGE_FIGURES: tuple[Literal["win_rate", "tie_share", "consistency", "first_place_share"], ...] = (
    "win_rate",
    "tie_share",
    "consistency",
    "first_place_share",
)
"""Figures of the judge against each baseline."""
JUDGE_COSTS = ("requests", "prompt_tokens", "completion_tokens", "cost", "unreadable_share")
"""Figures of the judge itself."""


def _is_tsv(path: Path) -> bool:
    return path.name.lower().removesuffix(".gz").endswith(".tsv")
