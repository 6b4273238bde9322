"""What becomes of a verdict that waits for a person. Default is no: silence, lateness and a changed champion
all leave the champion where it is."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from rlhf.registry.champion import ChampionRef
from rlhf.registry.promotion import Approval, PromotionDecision
from rlhf.registry.store import RegisteredVersion
from rlhf.registry.transaction import DECISION_TAG, decision_digest


class ApprovalAnswer(BaseModel):
    """The answer as whoever gives it writes it; what is left out means no."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    approve: bool = False
    """Whether the candidate may take the champion's place."""

    approver: str = ""
    """Who answers for it; required to approve."""

    reason: str = ""
    """Why; required to approve."""


class ApprovalOutcome(BaseModel):
    """What an answer came to, with the reason as one sentence."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: Literal["approved", "refused", "expired", "void"]
    reason: str


def resolve(
    decision: PromotionDecision,
    answer: ApprovalAnswer,
    *,
    expires_at: datetime,
    answered_at: datetime,
    champion: ChampionRef,
) -> ApprovalOutcome:
    """What an answer given at a certain time comes to.

    Args:
        champion: the champion now; the approval spoke of the one that the candidate was evaluated against.
    """
    if not decision.awaits_approval:
        return ApprovalOutcome(action="void", reason="This verdict waits for nobody.")
    if answered_at > expires_at:
        return ApprovalOutcome(
            action="expired",
            reason=f"The answer came on {answered_at:%Y-%m-%d %H:%M} UTC, after {expires_at:%Y-%m-%d %H:%M}.",
        )
    if not answer.approve:
        why = f": {answer.reason}" if answer.reason else "."
        return ApprovalOutcome(
            action="refused", reason=f"Refused by {answer.approver or 'nobody named'}{why}"
        )
    if not (answer.approver.strip() and answer.reason.strip()):
        return ApprovalOutcome(action="refused", reason="An approval needs both an approver and a reason.")
    judged = (decision.champion.version, decision.champion.digest)
    if (champion.version, champion.digest) != judged:
        now = f"version {champion.version}" if champion.exists else "nobody"
        then = f"version {decision.champion.version}" if decision.champion.exists else "nobody"
        return ApprovalOutcome(
            action="void", reason=f"The champion is {now} and no longer {then}, against which it was judged."
        )
    return ApprovalOutcome(action="approved", reason=f"Approved by {answer.approver}: {answer.reason}")


def carried_out(
    decision: PromotionDecision, answer: ApprovalAnswer, champion: RegisteredVersion | None
) -> bool:
    """Whether this very answer made the champion, in an attempt that died before it could say so."""
    if champion is None:
        return False
    approved = answered(decision, answer, ApprovalOutcome(action="approved", reason=answer.reason))
    return champion.tags.get(DECISION_TAG) == decision_digest(approved)


def answered(
    decision: PromotionDecision, answer: ApprovalAnswer, outcome: ApprovalOutcome
) -> PromotionDecision:
    """The decision with a person's word, or with what came instead of it."""
    named = outcome.action in ("approved", "refused") and answer.approver
    approval = Approval(
        approve=outcome.action == "approved",
        approver=answer.approver if named else "nobody",
        reason=answer.reason if named and answer.reason else outcome.reason,
    )
    return decision.model_copy(update={"approval": approval})
