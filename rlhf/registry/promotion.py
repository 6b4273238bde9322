"""The decision on a promotion, as it travels: made in ``rlhf.registry.gate``, which reads no registry, and
carried out in ``rlhf.registry.transaction``, which reads no figures."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from rlhf.registry.champion import ChampionRef
from rlhf.registry.settings import PromotionSettings

Verdict = Literal["promote", "reject", "undecided", "already_champion"]
Mode = Literal["enforce", "dry_run", "approval"]


class _Record(BaseModel):
    """Decisions are artifacts between steps, so they are models that survive JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CriterionResult(_Record):
    """What one criterion said. ``value`` is ``None`` when the question was not asked."""

    metric: str
    """Flat name of the figure."""
    test: Literal["superiority", "non_inferiority", "threshold"]
    required: bool = True
    outcome: Literal["met", "failed", "undecided", "not_asked"]
    reason: str
    """The figure and what follows from it, as one sentence."""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_adjusted: float | None = None
    """By Holm's method, among the findings."""
    prompts: int | None = None
    ties: int | None = None
    effect: float | None = None
    """Effect beyond the margin for which the power is stated, in the figure's unit."""
    power: float | None = None
    needed: int | None = None
    """Prompts that would have been needed to find that effect."""
    needed_observed: int | None = None
    """Prompts that would have been needed if the effect is what was observed."""
    method: str | None = None

    @property
    def passed(self) -> bool:
        """Whether it stands in nobody's way."""
        return self.outcome in ("met", "not_asked")


class Approval(_Record):
    """A person's word on a verdict."""

    approve: bool
    approver: str
    reason: str


class PromotionDecision(_Record):
    """A verdict on one candidate against one champion, with every reason for it."""

    verdict: Verdict
    mode: Mode
    candidate_digest: str
    champion: ChampionRef
    reasons: tuple[CriterionResult, ...]
    approval: Approval | None = None
    """Only in mode ``approval``, once somebody has answered."""

    @property
    def promote(self) -> bool:
        """Whether the candidate is to become the champion."""
        return self.verdict == "promote" and (
            self.mode != "approval" or (self.approval is not None and self.approval.approve)
        )

    @property
    def awaits_approval(self) -> bool:
        """Whether only a person's word is missing."""
        return self.verdict == "promote" and self.mode == "approval" and self.approval is None

    @property
    def without_promotion(self) -> Literal["rejected", "undecided", "awaits_approval"]:
        """What became of a candidate that is registered and not promoted."""
        if self.awaits_approval:
            return "awaits_approval"
        return "undecided" if self.verdict == "undecided" else "rejected"

    @property
    def summary(self) -> str:
        """The verdict as one sentence."""
        name = self.candidate_digest[:12]
        if self.verdict == "already_champion":
            return f"Model {name} is already the champion (version {self.champion.version})."
        required = [r for r in self.reasons if r.required]
        if self.verdict == "reject":
            failed = [r.metric for r in required if r.outcome == "failed"]
            return f"Model {name} is rejected: {', '.join(failed) or 'nothing'} did not pass."
        if self.verdict == "undecided":
            open_ones = [r.metric for r in required if r.outcome == "undecided"]
            return f"Model {name} is not promoted, for want of evidence on {', '.join(open_ones)}."
        against = f"version {self.champion.version}" if self.champion.exists else "no champion"
        passes = f"Model {name} passes all {len(required)} required criteria and"
        if self.approval is not None and not self.approval.approve:
            return f"{passes} is refused by {self.approval.approver}: {self.approval.reason}"
        if self.awaits_approval:
            return f"{passes} waits for approval to take the place of {against}."
        takes = "would take" if self.mode == "dry_run" else "takes"
        by = f", approved by {self.approval.approver}: {self.approval.reason}" if self.approval else "."
        return f"{passes} {takes} the place of {against}{by}"


def conclude(
    results: Sequence[CriterionResult],
    settings: PromotionSettings,
    champion: ChampionRef,
    *,
    candidate_digest: str,
) -> PromotionDecision:
    """The verdict that follows from results, whoever produced them: all required ones must have passed.

    A gate whose question is of another kind adds its results to those of :func:`rlhf.registry.gate.judge`.
    """
    required = [result for result in results if result.required]
    verdict: Verdict = "promote"
    if not required or any(r.outcome == "failed" for r in required):
        verdict = "reject"
    elif any(r.outcome == "undecided" for r in required):
        verdict = "undecided"
    if champion.digest == candidate_digest:
        verdict = "already_champion"
    return PromotionDecision(
        verdict=verdict,
        mode=settings.mode,
        candidate_digest=candidate_digest,
        champion=champion,
        reasons=tuple(results),
    )


def decision_tags(decision: PromotionDecision) -> dict[str, str]:
    """The verdict as registry tags: what was decided, against whom, and the figures it rests on."""
    figures = {
        f"promotion.{r.metric.replace('/', '.')}": f"{r.value:.6g}"
        for r in decision.reasons
        if r.value is not None
    }
    approval = decision.approval
    answer = {
        "promotion.approved": str(approval.approve).lower(),
        "promotion.approver": approval.approver,
        "promotion.approval_reason": approval.reason,
    } if approval else {}  # fmt: skip
    return {
        "promotion.verdict": decision.verdict,
        "promotion.summary": decision.summary,
        "promotion.against": decision.champion.version or "",
        **answer,
        **figures,
    }
