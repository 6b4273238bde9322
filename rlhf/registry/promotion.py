"""The decision on a promotion: pure, over figures and criteria. It reads no registry and measures nothing."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from rlhf.errors import ConfigError
from rlhf.registry.champion import ChampionRef
from rlhf.registry.settings import Criterion, PromotionSettings
from rlhf.report import Report, ReportBuilder

Verdict = Literal["promote", "reject", "already_champion"]


class _Record(BaseModel):
    """Decisions are artifacts between steps, so they are models that survive JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CriterionResult(_Record):
    """What one criterion said. ``value`` is ``None`` when the question was not asked."""

    metric: str
    value: float | None
    passed: bool
    reason: str


class PromotionDecision(_Record):
    """A verdict on one candidate against one champion, with every reason for it."""

    verdict: Verdict
    mode: Literal["enforce", "dry_run"]
    candidate_digest: str
    champion: ChampionRef
    reasons: tuple[CriterionResult, ...]

    @property
    def promote(self) -> bool:
        """Whether the candidate is to become the champion."""
        return self.verdict == "promote"

    @property
    def summary(self) -> str:
        """The verdict as one sentence."""
        name = self.candidate_digest[:12]
        if self.verdict == "already_champion":
            return f"Model {name} is already the champion (version {self.champion.version})."
        failed = [r.metric for r in self.reasons if not r.passed]
        if failed:
            return f"Model {name} is not promoted: {', '.join(failed)} did not pass."
        against = f"version {self.champion.version}" if self.champion.exists else "no champion"
        takes = "would take" if self.mode == "dry_run" else "takes"
        return f"Model {name} passes all {len(self.reasons)} criteria and {takes} the place of {against}."


def decide(
    metrics: Mapping[str, float], settings: PromotionSettings, champion: ChampionRef, *, candidate_digest: str
) -> PromotionDecision:
    """Judge a candidate by the figures of its evaluation.

    Args:
        metrics: flat figures, such as ``PolicyEvaluationResult.metrics``.
        champion: the champion that the candidate was evaluated against.

    Raises:
        ConfigError: a criterion names a figure that was not reported or is not a finite number: a figure
            that is absent is never taken as passed.
    """
    results = [
        judge(criterion, metrics, champion, key=f"promotion.criteria[{position}]")
        for position, criterion in enumerate(settings.criteria)
    ]
    return conclude(results, settings, champion, candidate_digest=candidate_digest)


def conclude(
    results: Sequence[CriterionResult],
    settings: PromotionSettings,
    champion: ChampionRef,
    *,
    candidate_digest: str,
) -> PromotionDecision:
    """The verdict that follows from results, whoever produced them: all must have passed.

    A gate whose question is more than a figure between bounds adds its results to those of :func:`judge`.
    """
    verdict: Verdict = "promote" if results and all(r.passed for r in results) else "reject"
    if champion.digest == candidate_digest:
        verdict = "already_champion"
    return PromotionDecision(
        verdict=verdict,
        mode=settings.mode,
        candidate_digest=candidate_digest,
        champion=champion,
        reasons=tuple(results),
    )


def judge(
    criterion: Criterion, metrics: Mapping[str, float], champion: ChampionRef, *, key: str = "criterion"
) -> CriterionResult:
    """One figure against its bounds. ``key`` is the config key that errors name."""
    metric = criterion.metric
    if criterion.when == "champion" and not champion.exists:
        return CriterionResult(
            metric=metric, value=None, passed=True, reason=f"{metric} is not asked: there is no champion yet."
        )
    if metric not in metrics:
        remedy = (
            " There is no champion yet: set `when: champion` on criteria that compare with one."
            if "champion" in metric and not champion.exists
            else ""
        )
        raise ConfigError(
            f"{key}.metric names {metric!r}, which the evaluation does not report.{remedy} "
            f"It reports: {', '.join(sorted(metrics)) or 'nothing'}."
        )
    value = float(metrics[metric])
    if not math.isfinite(value):
        raise ConfigError(
            f"{key}.metric names {metric!r}, whose value is {value}; repair the evaluation or drop it."
        )
    broken = [
        f"{word} {bound:.6g}"
        for word, bound, holds in (
            ("below the minimum", criterion.minimum, criterion.minimum is None or value >= criterion.minimum),
            ("above the maximum", criterion.maximum, criterion.maximum is None or value <= criterion.maximum),
        )
        if bound is not None and not holds
    ]
    allowed = " and ".join(
        f"{sign} {bound:.6g}"
        for sign, bound in (("≥", criterion.minimum), ("≤", criterion.maximum))
        if bound is not None
    )
    verdict = broken[0] if broken else f"{allowed} as asked"
    return CriterionResult(
        metric=metric, value=value, passed=not broken, reason=f"{metric} is {value:.6g}, {verdict}."
    )


def decision_tags(decision: PromotionDecision) -> dict[str, str]:
    """The verdict as registry tags: what was decided, against whom, and the figures it rests on."""
    figures = {
        f"promotion.{r.metric.replace('/', '.')}": f"{r.value:.6g}"
        for r in decision.reasons
        if r.value is not None
    }
    return {
        "promotion.verdict": decision.verdict,
        "promotion.summary": decision.summary,
        "promotion.against": decision.champion.version or "",
        **figures,
    }


def decision_report(decision: PromotionDecision) -> Report:
    """The decision as a page for people; ``data`` is the decision itself."""
    builder = ReportBuilder("Promotion decision", decision.summary, data=decision.model_dump(mode="json"))
    builder.data.update(promote=decision.promote, summary=decision.summary)
    if decision.mode == "dry_run":
        builder.note("This is a dry run: the registry is left as it is (promotion.mode: dry_run).")
    builder.heading("Criteria")
    builder.table(
        ["criterion", "value", "passed", "reason"],
        [[r.metric, r.value, "yes" if r.passed else "no", r.reason] for r in decision.reasons],
    )
    builder.heading("Models")
    builder.table(
        ["role", "version", "digest"],
        [
            ["candidate", None, decision.candidate_digest],
            ["champion", decision.champion.version or "none", decision.champion.digest],
        ],
    )
    return builder.build()
