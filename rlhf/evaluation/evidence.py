"""Everything an evaluation measured, as plain values, and its flat form under ``eval/`` names.

Flat names are the contract with the gate and the tracker: they are made here and nowhere else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rlhf.errors import EvaluationError
from rlhf.evaluation.frontier import FrontierPoint, OverOptimisation
from rlhf.evaluation.language import LengthHistogram
from rlhf.evaluation.reward_model_report import RewardModelEvidence, reward_model_metrics
from rlhf.evaluation.settings import EvaluationSettings, reward_name_problem
from rlhf.evaluation.statistics import holm
from rlhf.evaluation.win_rate import Comparison, Estimate

Role = Literal["policy", "sft", "champion"]
Baseline = Literal["sft", "champion"]


def check_reward_names(names: Sequence[str]) -> None:
    """Refuse names that could not be told from other figures.

    Raises:
        EvaluationError: no name at all, or one that is taken or not lower case with underscores.
    """
    if not names:
        raise EvaluationError("An evaluation needs at least one reward, such as 'proxy'; none was given.")
    for name in names:
        if problem := reward_name_problem(name):
            raise EvaluationError(f"{problem[0].upper()}{problem[1:]}.")


@dataclass(frozen=True)
class Behaviour:
    """How a model answers, whatever the answers are worth."""

    length: Estimate
    """Tokens per answer, EOS included."""
    truncated_share: float
    """Share of answers that were cut at the longest allowed length."""
    distinct_1: float
    """Distinct tokens over all tokens of all answers (Li et al., 2016); falls when answers become one."""
    distinct_2: float
    """The same for pairs of neighbouring tokens."""
    repetition_4: Estimate
    """Share of an answer's runs of four tokens that stood in it before."""
    prompt_language_share: float | None
    """Share of answers in the language of their prompt, of those where both are known; ``None`` where no
    answer's is."""
    language_decided: int
    """Answers for which it is known."""
    perplexity: Estimate | None
    """exp of the mean loss per token on held-out demonstrations, EOS included; ``None`` without any. In the
    model's own tokens, so models with other tokenizers do not compare."""


@dataclass(frozen=True)
class PromptEvidence:
    """What every distinct prompt said, in one order throughout: the paired data of every test."""

    record_ids: Sequence[str]
    """Record of each prompt; of a prompt that stands twice, the first."""
    scores: Mapping[str, Mapping[Role, Sequence[float]]]
    """Mean over a prompt's answers by reward name and model."""
    tokens: Mapping[Role, Sequence[float]]
    """Mean length of a prompt's answers in the model's own tokens, EOS included."""


@dataclass(frozen=True)
class PolicyEvidence:
    """Every figure of one evaluation."""

    settings: EvaluationSettings
    prompts: int
    """Distinct prompts."""
    by_prompt: PromptEvidence
    means: Mapping[str, Mapping[Role, Estimate]]
    """Mean reward by reward name and model."""
    comparisons: Mapping[str, Mapping[Baseline, Comparison]]
    """Policy against each baseline by reward name."""
    kl: Estimate
    """KL(policy‖SFT), nats per sequence."""
    kl_per_token: Estimate
    behaviour: Mapping[Role, Behaviour]
    lengths: LengthHistogram
    reward_models: Mapping[str, RewardModelEvidence]
    """The reward models' own report by name; empty where they were not examined."""
    frontier: Sequence[FrontierPoint]
    overoptimisation: Sequence[OverOptimisation]
    shown: Sequence[Mapping[str, Any]]
    """Sample rows to show side by side, each with ``why``."""

    @property
    def adjusted_p_values(self) -> dict[str, dict[Baseline, float]]:
        """P-values of the win rates by reward name and baseline, corrected by Holm as one family: these are
        what the report calls findings."""
        family = {
            f"{name}/{baseline}": comparison.p_value
            for name, against in self.comparisons.items()
            for baseline, comparison in against.items()
        }
        adjusted = holm(family)
        return {
            name: {baseline: adjusted[f"{name}/{baseline}"] for baseline in against}
            for name, against in self.comparisons.items()
        }

    @property
    def disagreeing(self) -> list[str]:
        """Rewards that prefer the SFT model although the optimised one prefers the policy, by mean
        difference."""
        optimised = self.comparisons.get(self.settings.optimised_reward)
        if optimised is None or optimised["sft"].difference.value <= 0:
            return []
        return [name for name, against in self.comparisons.items() if against["sft"].difference.value < 0]


def flat_metrics(evidence: PolicyEvidence) -> dict[str, float]:
    """Every figure under its own name, such as ``eval/gold/win_rate_vs_sft_low``."""
    flat: dict[str, float] = {"eval/prompts": float(evidence.prompts)}
    _put(flat, "eval/kl", evidence.kl)
    _put(flat, "eval/kl_per_token", evidence.kl_per_token)
    adjusted = evidence.adjusted_p_values
    for reward, means in evidence.means.items():
        for role, estimate in means.items():
            _put(flat, f"eval/{reward}/{role}", estimate)
        for baseline, comparison in evidence.comparisons[reward].items():
            _put(flat, f"eval/{reward}/difference_vs_{baseline}", comparison.difference)
            won = comparison.win_rate
            _put(flat, f"eval/{reward}/win_rate_vs_{baseline}", Estimate(won.rate, won.low, won.high))
            flat[f"eval/{reward}/tie_share_vs_{baseline}"] = won.ties / (won.wins + won.ties + won.losses)
            flat[f"eval/{reward}/p_value_vs_{baseline}"] = comparison.p_value
            flat[f"eval/{reward}/holm_p_value_vs_{baseline}"] = adjusted[reward][baseline]
            flat[f"eval/{reward}/mcnemar_p_value_vs_{baseline}"] = comparison.mcnemar_p_value
            power = comparison.power
            flat[f"eval/{reward}/power_vs_{baseline}"] = power.achieved
            flat[f"eval/{reward}/detectable_win_rate_vs_{baseline}"] = min(1.0, 0.5 + power.detectable)
            if power.prompts_needed is not None:
                flat[f"eval/{reward}/prompts_needed_vs_{baseline}"] = float(power.prompts_needed)
            if (fair := comparison.length_controlled) is not None:
                name = f"eval/{reward}/length_controlled_win_rate_vs_{baseline}"
                _put(flat, name, Estimate(fair.rate, fair.low, fair.high))
    for role, behaviour in evidence.behaviour.items():
        _put(flat, f"eval/length/{role}", behaviour.length)
        flat[f"eval/truncated_share/{role}"] = behaviour.truncated_share
        flat[f"eval/distinct_1/{role}"] = behaviour.distinct_1
        flat[f"eval/distinct_2/{role}"] = behaviour.distinct_2
        _put(flat, f"eval/repetition_4/{role}", behaviour.repetition_4)
        if behaviour.prompt_language_share is not None:
            flat[f"eval/prompt_language_share/{role}"] = behaviour.prompt_language_share
        if behaviour.perplexity is not None:
            _put(flat, f"eval/perplexity/{role}", behaviour.perplexity)
    for name, reward_model in evidence.reward_models.items():
        flat |= reward_model_metrics(name, reward_model)
    if evidence.frontier:
        flat["eval/overoptimised"] = float(bool(evidence.overoptimisation))
    return flat


def as_json(evidence: PolicyEvidence) -> dict[str, Any]:
    """The same, nested and complete, as values that JSON knows."""
    adjusted = evidence.adjusted_p_values
    return {
        "prompts": evidence.prompts,
        "rewards": {
            name: {
                "mean": {role: asdict(estimate) for role, estimate in means.items()},
                **{
                    f"vs_{b}": {**asdict(comparison), "holm_p_value": adjusted[name][b]}
                    for b, comparison in evidence.comparisons[name].items()
                },
            }
            for name, means in evidence.means.items()
        },
        "kl": asdict(evidence.kl),
        "kl_per_token": asdict(evidence.kl_per_token),
        "behaviour": {role: asdict(behaviour) for role, behaviour in evidence.behaviour.items()},
        "lengths": asdict(evidence.lengths),
        "reward_models": {name: asdict(found) for name, found in evidence.reward_models.items()},
        "frontier": [
            {"update": p.update, "kl": p.kl, "rewards": dict(p.rewards), "chosen": p.chosen}
            for p in evidence.frontier
        ],
        "overoptimisation": [{**asdict(f), "sentence": f.sentence} for f in evidence.overoptimisation],
        "disagreeing": evidence.disagreeing,
        "samples": [dict(row) for row in evidence.shown],
        "settings": evidence.settings.model_dump(mode="json"),
        "by_prompt": asdict(evidence.by_prompt),
        "metrics": flat_metrics(evidence),
    }


def _put(flat: dict[str, float], name: str, estimate: Estimate) -> None:
    flat[name] = estimate.value
    flat[f"{name}_low"] = estimate.low
    flat[f"{name}_high"] = estimate.high
