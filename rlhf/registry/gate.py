"""The gate: criteria and the evidence of an evaluation in, one verdict out. It reads no registry.

Each criterion is met, failed or undecided. A required one that failed rejects; else one that is undecided
leaves the verdict undecided; else the candidate is promoted. As all required criteria must hold at once, the
chance to promote a model that fails one of them is at most that one's level: no correction is needed (Berger
1982, Technometrics 24:295, intersection-union tests)."""

import math
from collections.abc import Sequence
from typing import Literal

from rlhf.errors import ConfigError
from rlhf.registry.champion import ChampionRef
from rlhf.registry.gate_evidence import Evidence
from rlhf.registry.promotion import CriterionResult, PromotionDecision, conclude
from rlhf.registry.settings import Criterion, PromotionSettings

_EFFECT_ON_WIN_RATE = 0.1


def decide(
    evidence: Evidence, settings: PromotionSettings, champion: ChampionRef, *, candidate_digest: str
) -> PromotionDecision:
    """Judge a candidate by its evaluation.

    Args:
        champion: the champion that the candidate was evaluated against.

    Raises:
        ConfigError: a criterion names a figure that was not reported or is not a finite number: a figure that
            is absent is never taken as passed.
        EvaluationError: too few prompts for a paired test.
    """
    results = [
        judge(criterion, evidence, champion, key=f"promotion.criteria[{position}]")
        for position, criterion in enumerate(settings.criteria)
    ]
    results = correct_findings(results, settings.criteria)
    return conclude(results, settings, champion, candidate_digest=candidate_digest)


def judge(
    criterion: Criterion, evidence: Evidence, champion: ChampionRef, *, key: str = "criterion"
) -> CriterionResult:
    """The answer to one question. ``key`` is the config key that errors name."""
    if criterion.needs_champion and not champion.exists:
        return CriterionResult(
            metric=criterion.figure,
            test=criterion.test,
            required=criterion.required,
            outcome="not_asked",
            reason=f"{criterion.figure} is not asked: there is no champion yet.",
        )
    judge_one = _judge_threshold if criterion.test == "threshold" else _judge_test
    return judge_one(criterion, evidence, champion, key)


def correct_findings(
    results: Sequence[CriterionResult], criteria: Sequence[Criterion]
) -> list[CriterionResult]:
    """Holm's correction (1979, Scand. J. Statist. 6:65) of the findings: tests that are not required."""
    from rlhf.evaluation.statistics import holm

    family = {str(i): r.p_value for i, r in enumerate(results) if not r.required and r.p_value is not None}
    corrected = list(results)
    for position, p in holm(family).items():
        i = int(position)
        changed: dict[str, object] = {"p_adjusted": p}
        if results[i].outcome == "met" and p > criteria[i].alpha:
            changed["outcome"] = "undecided"
            changed["reason"] = (
                f"{results[i].reason[:-1]}, but not among {len(family)} findings (Holm's p is {p:.3g})."
            )
        corrected[i] = results[i].model_copy(update=changed)
    return corrected


def _judge_test(criterion: Criterion, evidence: Evidence, champion: ChampionRef, key: str) -> CriterionResult:
    from rlhf.registry.gate_tests import mean_difference_test, win_rate_test  # scipy and statsmodels, 1 s

    reward, kind = criterion.paired
    differences = evidence.differences(reward, criterion.versus, key=key)
    effect = criterion.effect
    if criterion.test == "non_inferiority" and effect is None:
        effect = criterion.margin
    if kind == "win_rate":
        test = win_rate_test(
            differences,
            null=criterion.null,
            effect=effect or _EFFECT_ON_WIN_RATE,
            alpha=criterion.alpha,
            power=criterion.power,
            tolerance=evidence.tie_tolerance,
        )
    else:
        test = mean_difference_test(
            differences, null=criterion.null, effect=effect, alpha=criterion.alpha, power=criterion.power
        )
    outcome: Literal["met", "failed", "undecided"]
    worth_having = criterion.null + test.effect
    claim = f"above {criterion.null:.4g}"
    found = (
        f"{criterion.figure} is {test.value:.4g} ({test.low:.4g} to {test.high:.4g}, {test.prompts} prompts)"
    )
    if test.p_value <= criterion.alpha:
        outcome, says = "met", f"{claim} as asked ({test.method}, p = {test.p_value:.2g})"
    elif test.high < worth_having:
        outcome, says = "failed", f"not shown to be {claim}, and {worth_having:.4g} or more is ruled out"
    else:
        outcome = "undecided"
        needed = f"; {test.needed} prompts would find {worth_having:.4g}" if test.needed else ""
        says = f"neither shown to be {claim} nor ruled out to be {worth_having:.4g} or more{needed}"
    return CriterionResult(
        metric=criterion.figure,
        test=criterion.test,
        required=criterion.required,
        outcome=outcome,
        value=test.value,
        low=test.low,
        high=test.high,
        p_value=test.p_value,
        prompts=test.prompts,
        ties=test.ties,
        effect=test.effect,
        power=test.power,
        needed=test.needed,
        needed_observed=test.needed_observed,
        method=test.method,
        reason=f"{found}: {says}.",
    )


def _judge_threshold(
    criterion: Criterion, evidence: Evidence, champion: ChampionRef, key: str
) -> CriterionResult:
    figure = criterion.figure
    value = _finite(evidence, figure, champion, key)
    ends = [f"{figure}_low", f"{figure}_high"]
    has_interval = all(name in evidence.metrics for name in ends)
    low, high = (_finite(evidence, n, champion, key) for n in ends) if has_interval else (value, value)
    bounds = []
    if criterion.minimum is not None:
        bounds.append((criterion.minimum, low >= criterion.minimum, high < criterion.minimum, "below", "≥"))
    if criterion.maximum is not None:
        bounds.append((criterion.maximum, high <= criterion.maximum, low > criterion.maximum, "above", "≤"))
    outcome: Literal["met", "failed", "undecided"] = "undecided"
    allowed = " and ".join(f"{sign} {bound:.6g}" for bound, _, _, _, sign in bounds)
    needed = None
    if broken := [f"{side} {bound:.6g}" for bound, _, failed, side, _ in bounds if failed]:
        outcome, says = "failed", f"{broken[0]}, where {allowed} is asked"
    elif all(met for _, met, _, _, _ in bounds):
        outcome, says = "met", f"{allowed} as asked"
    else:
        nearest = min(abs(value - bound) for bound, met, _, _, _ in bounds if not met)
        needed = _needed_for_threshold(evidence, low, high, nearest, criterion.power)
        enough = f"; {needed} prompts would tell" if needed else ""
        says = f"the interval holds the bound of {allowed}{enough}"
    interval = f" ({low:.6g} to {high:.6g})" if has_interval else ""
    return CriterionResult(
        metric=figure,
        test="threshold",
        required=criterion.required,
        outcome=outcome,
        value=value,
        low=low if has_interval else None,
        high=high if has_interval else None,
        needed_observed=needed,
        reason=f"{figure} is {value:.6g}{interval}: {says}.",
    )


def _needed_for_threshold(
    evidence: Evidence, low: float, high: float, distance: float, power: float
) -> int | None:
    """Prompts at which the interval would leave the bound, if the figure stays and varies as it does."""
    from scipy import stats

    from rlhf.registry.gate_tests import prompts_needed

    prompts = evidence.metrics.get("eval/prompts")
    if not prompts:
        return None
    alpha = (1 - evidence.confidence) / 2
    deviation = (high - low) / 2 / float(stats.norm.isf(alpha)) * math.sqrt(prompts)
    return prompts_needed(distance, deviation, alpha=alpha, power=power)


def _finite(evidence: Evidence, figure: str, champion: ChampionRef, key: str) -> float:
    metrics = evidence.metrics
    if figure not in metrics:
        remedy = (
            " There is no champion yet: set `when: champion` on criteria that speak of one."
            if "champion" in figure and not champion.exists
            else ""
        )
        raise ConfigError(
            f"{key}.metric names {figure!r}, which the evaluation does not report.{remedy} "
            f"It reports: {', '.join(sorted(metrics)) or 'nothing'}."
        )
    value = float(metrics[figure])
    if not math.isfinite(value):
        raise ConfigError(
            f"{key}.metric names {figure!r}, whose value is {value}; repair the evaluation or drop it."
        )
    return value
