"""What a person's answer comes to. Default is no."""

from datetime import UTC, datetime, timedelta

import pytest

from rlhf.registry.approval import ApprovalAnswer, answered, carried_out, resolve
from rlhf.registry.champion import ChampionRef
from rlhf.registry.promotion import CriterionResult, PromotionDecision
from rlhf.registry.store import Candidate, at
from rlhf.registry.transaction import promote
from tests.rlhf.registry.memory_store import MemoryStore

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
CHAMPION = ChampionRef(version="1", digest="old")
YES = ApprovalAnswer(approve=True, approver="Ada", reason="reads well")
PASSED = CriterionResult(metric="eval/kl", test="threshold", outcome="met", reason="eval/kl is 9.")
DECISION = PromotionDecision(
    verdict="promote", mode="approval", candidate_digest="new", champion=CHAMPION, reasons=(PASSED,)
)


def outcome(
    answer: ApprovalAnswer = YES,
    *,
    decision: PromotionDecision = DECISION,
    after: timedelta = timedelta(hours=1),
    champion: ChampionRef = CHAMPION,
) -> str:
    expires = NOW + timedelta(hours=2)
    return resolve(decision, answer, expires_at=expires, answered_at=NOW + after, champion=champion).action


def test_a_person_with_a_name_and_a_reason_may_approve_in_time() -> None:
    assert outcome() == "approved"
    assert outcome(after=timedelta(hours=2)) == "approved"


@pytest.mark.parametrize(
    "answer",
    [
        ApprovalAnswer(),
        ApprovalAnswer(approve=False, approver="Ada", reason="too terse"),
        ApprovalAnswer(approve=True, approver="Ada"),
        ApprovalAnswer(approve=True, approver=" ", reason="fine"),
    ],
)
def test_anything_else_is_a_no(answer: ApprovalAnswer) -> None:
    assert outcome(answer) == "refused"


def test_an_answer_that_comes_late_does_not_count() -> None:
    assert outcome(after=timedelta(hours=2, seconds=1)) == "expired"
    assert outcome(ApprovalAnswer(), after=timedelta(days=9)) == "expired"


@pytest.mark.parametrize(
    "champion",
    [ChampionRef(), ChampionRef(version="2", digest="other"), ChampionRef(version="2", digest="old")],
)
def test_an_approval_is_void_when_the_champion_has_changed(champion: ChampionRef) -> None:
    assert outcome(champion=champion) == "void"


@pytest.mark.parametrize("change", [{"verdict": "reject"}, {"verdict": "undecided"}, {"mode": "enforce"}])
def test_nobody_can_approve_what_the_gate_did_not_let_pass(change: dict[str, str]) -> None:
    assert outcome(decision=DECISION.model_copy(update=change)) == "void"


def test_an_approval_cannot_be_given_twice() -> None:
    given = answered(
        DECISION, YES, resolve(DECISION, YES, expires_at=NOW, answered_at=NOW, champion=CHAMPION)
    )
    assert given.promote
    assert outcome(decision=given) == "void"


def test_without_approval_the_candidate_is_registered_and_the_champion_stays() -> None:
    store = MemoryStore()
    first = DECISION.model_copy(
        update={"mode": "enforce", "candidate_digest": "old", "champion": ChampionRef()}
    )
    promote(store, Candidate(digest="old", path="models/old"), first)
    candidate = Candidate(digest="new", path="models/new")
    assert promote(store, candidate, DECISION).action == "awaits_approval"
    assert store.aliases()["policy@champion"] == "1"
    assert store.aliases()["policy@candidate"] == "2"

    expires = NOW + timedelta(hours=2)
    approved = answered(
        DECISION, YES, resolve(DECISION, YES, expires_at=expires, answered_at=NOW, champion=CHAMPION)
    )
    assert promote(store, candidate, approved).action == "promoted"
    assert store.aliases()["policy@champion"] == "2"
    assert store.versions("policy")[1].tags["promotion.approver"] == "Ada"


def test_an_answer_that_was_carried_out_before_its_process_died_is_known_again() -> None:
    store = MemoryStore()
    first = DECISION.model_copy(
        update={"mode": "enforce", "candidate_digest": "old", "champion": ChampionRef()}
    )
    promote(store, Candidate(digest="old", path="models/old"), first)
    assert not carried_out(DECISION, YES, at(store, "champion"))
    expires = NOW + timedelta(hours=2)
    said = resolve(DECISION, YES, expires_at=expires, answered_at=NOW, champion=CHAMPION)
    promote(store, Candidate(digest="new", path="models/new"), answered(DECISION, YES, said))
    assert carried_out(DECISION, YES, at(store, "champion"))
    again = ApprovalAnswer(approve=True, approver="Ben", reason="me too")
    assert not carried_out(DECISION, again, at(store, "champion"))
    assert not carried_out(DECISION, YES, None)


def test_the_summary_says_who_answered_and_why() -> None:
    refused = ApprovalAnswer(approver="Ada", reason="too terse")
    said = resolve(DECISION, refused, expires_at=NOW, answered_at=NOW, champion=CHAMPION)
    assert "waits for approval to take the place of version 1" in DECISION.summary
    assert "is refused by Ada: too terse" in answered(DECISION, refused, said).summary
