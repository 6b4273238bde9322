"""Settings of the evaluation of a policy on held-out prompts, and which names its rewards may have."""

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, field_validator

from rlhf.evaluation.suites.settings import SUITES, SuitesSettings
from rlhf.models.settings_generation import GenerationSettings
from rlhf.settings import Settings

FIGURES = frozenset(
    {
        "kl",
        "kl_per_token",
        "length",
        "truncated_share",
        "distinct_1",
        "distinct_2",
        "repetition_4",
        "prompt_language_share",
        "perplexity",
        "prompts",
        "overoptimised",
        "rm",
    }
)
"""Names under ``eval/`` that are figures of the evaluation itself."""
FunctionName = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def reward_name_problem(name: str) -> str | None:
    """Why a reward cannot have this name; ``None`` if it can."""
    if name not in FIGURES and name not in SUITES and _NAME.fullmatch(name):
        return None
    return (
        f"a reward cannot be called {name!r}; use lower case letters, digits and underscores, and none of "
        f"{', '.join(sorted(FIGURES.union(SUITES)))}"
    )


REWARD_MODELS = ("proxy", "selection", "judge")
"""The pipeline's own reward models."""
SLICE_NAMES: Mapping[str, tuple[str, ...]] = {
    "length": ("chosen_longer", "similar_length", "chosen_shorter"),
    "margin": ("small_margin", "medium_margin", "large_margin"),
    "votes": ("single_vote", "close_votes", "clear_votes", "unanimous_votes"),
}
"""Kinds of pairs on which a reward model's accuracy is reported."""
_ROLES = ("policy", "sft", "champion")
_COMPARISON_FIGURES = tuple(
    f"{figure}_vs_{baseline}"
    for figure in (
        "difference",
        "win_rate",
        "length_controlled_win_rate",
        "tie_share",
        "p_value",
        "holm_p_value",
        "mcnemar_p_value",
        "power",
        "detectable_win_rate",
        "prompts_needed",
    )
    for baseline in ("sft", "champion")
)
_BEHAVIOUR_FIGURES = (
    "length",
    "truncated_share",
    "distinct_1",
    "distinct_2",
    "repetition_4",
    "prompt_language_share",
    "perplexity",
)
_WITHOUT_INTERVAL = (
    "tie_share",
    "p_value",
    "power",
    "detectable",
    "prompts_needed",
    "truncated_share",
    "distinct",
    "prompt_language_share",
    "longer_wins",
    "bag_of_words",
    "/ece",
    "/pairs",
)


class EvaluationSettings(Settings):
    """How policy, SFT model and champion are compared."""

    generation: GenerationSettings = GenerationSettings()
    """How all models answer. The KL is always measured at temperature 1 without truncation of the
    distribution."""

    rewards: dict[str, FunctionName] = Field(default_factory=dict)
    """Further judges beside `proxy`, `selection` and `judge`, by name, as `package.module:function`; such as
    `gold`, the truth of a simulation. Training never sees them."""

    max_prompts: int | None = Field(default=None, ge=2)
    """Held-out prompts to use, the first ones; unset uses all."""

    max_demonstrations: int | None = Field(default=500, ge=1)
    """Held-out demonstrations whose perplexity is measured, the first ones; null takes all."""

    max_comparisons: int | None = Field(default=2000, ge=1)
    """Held-out comparisons on which the reward models are examined, the first ones; null takes all."""

    samples_per_prompt: int = Field(default=1, ge=1)
    """Answers of each model to each prompt; more of them narrow the intervals, more prompts narrow them
    faster."""

    batch_size: int = Field(default=64, ge=1)
    """Prompts answered at once; changes speed and memory, not the answers."""

    token_budget: int = Field(default=8192, ge=1)
    """Tokens per forward pass when log-probabilities are computed; changes speed and memory only."""

    seed: int = Field(default=0, ge=0)
    """Seed of sampling, resampling and of the choice of shown samples; all models share it."""

    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    """Two-sided level of every interval."""

    tie_tolerance: float = Field(default=1e-6, ge=0.0)
    """Answers whose rewards differ by at most this much, in the reward's unit, tie and count as half a
    win."""

    optimised_reward: str = "proxy"
    """Name of the reward that training maximised: others that fall while it rises show over-optimisation."""

    judging_reward: str | None = None
    """Name of the reward that picks the best and worst samples to show; unset takes the first there is of
    `gold`, `judge`, `selection` and the others."""

    samples_shown: int = Field(default=12, ge=0)
    """Answers shown side by side in the report: a third worst, a third best, a third at random."""

    suites: SuitesSettings = SuitesSettings()
    """Published probes to run on all models besides: bias, over-refusal, toxicity, instructions, judges."""

    def figure_names(self) -> frozenset[str]:
        """Every figure that an evaluation with these settings can report, so that a misspelt criterion is
        found before anything is trained. Some depend on there being a champion or comparisons."""
        names = {"eval/kl", "eval/kl_per_token"}
        for reward in (*REWARD_MODELS, *self.rewards):
            names |= {f"eval/{reward}/{figure}" for figure in (*_ROLES, *_COMPARISON_FIGURES)}
        examined = ("accuracy", "agreement_with_humans", "agreement_among_humans", "ece", "pairs")
        baselines = ("longer_wins_accuracy", "bag_of_words_accuracy")
        slices = (f"accuracy_{name}" for kind in SLICE_NAMES.values() for name in kind)
        of_reward_model = (*examined, *baselines, *slices)
        for model in REWARD_MODELS:
            names |= {f"eval/{model}/agreement_with_{other}" for other in self.rewards}
            names |= {f"eval/rm/{model}/{figure}" for figure in of_reward_model}
        for figure in _BEHAVIOUR_FIGURES:
            names |= {f"eval/{figure}/{role}" for role in _ROLES}
        with_interval = {n for n in names if not any(part in n for part in _WITHOUT_INTERVAL)}
        ends = {f"{name}_{end}" for name in with_interval for end in ("low", "high")}
        figures = names | ends | {"eval/prompts", "eval/overoptimised"}
        return frozenset(figures | self.suites.figure_names())

    @field_validator("rewards")
    @classmethod
    def _names_are_free(cls, rewards: Mapping[str, str]) -> Mapping[str, str]:
        for name in rewards:
            if name in REWARD_MODELS:
                raise ValueError(f"{name!r} is the name of a reward model of the pipeline; choose another")
            if problem := reward_name_problem(name):
                raise ValueError(problem)
        return rewards
