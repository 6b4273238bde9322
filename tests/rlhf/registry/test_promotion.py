"""A decision as it travels: its summary, its tags and its artifact."""

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from rlhf.registry.champion import ChampionRef
from rlhf.registry.gate import decide
from rlhf.registry.gate_evidence import Evidence
from rlhf.registry.gate_report import VerdictInputs, decision_of, expiry_of, verdict_report
from rlhf.registry.promotion import PromotionDecision, decision_tags
from rlhf.registry.seal import seal_problem
from rlhf.registry.settings import Criterion, PromotionSettings

GATE = PromotionSettings(
    criteria=(
        Criterion(metric="eval/judge/win_rate", versus="sft", test="superiority"),
        Criterion(metric="eval/kl", maximum=20.0),
        Criterion(metric="eval/prompts", minimum=100, required=False),
    )
)
SCORES = {"judge": {"policy": [1.0, 2.0, 0.0] * 20, "sft": [0.0, 1.0, 1.0] * 20}}
EVIDENCE = Evidence({"eval/kl": 9.0, "eval/prompts": 60.0}, SCORES)
INPUTS = VerdictInputs(
    candidate="abc", champion=None, evaluation="e" * 64, data={"feedback": "f" * 64}, settings=GATE
)


def decision(mode: str = "enforce") -> PromotionDecision:
    settings = GATE.model_copy(update={"mode": mode})
    return decide(EVIDENCE, settings, ChampionRef(), candidate_digest="abc")


def test_half_a_champion_is_refused() -> None:
    with pytest.raises(ValidationError, match="both a version and a digest"):
        ChampionRef(version="3")


def test_a_decision_survives_json_and_its_sealed_record() -> None:
    made = decision()
    assert PromotionDecision.model_validate_json(made.model_dump_json()) == made
    record = verdict_report(made, INPUTS).data
    assert decision_of(record) == made
    assert VerdictInputs.model_validate(record["inputs"]) == INPUTS
    assert seal_problem(record, None) is None


def test_the_page_holds_every_criterion_with_its_interval_and_reason_findings_apart() -> None:
    report = verdict_report(decision(), INPUTS)
    for reason in decision().reasons:
        assert reason.reason.replace("'", "&#x27;") in report.html
    assert "Findings, which decide nothing" in report.html
    assert "superiority" in report.html
    assert report.data["seal"]["sha256"] in report.html


def test_tags_name_verdict_opponent_and_figures() -> None:
    tags = decision_tags(decision())
    assert tags["promotion.verdict"] == "promote"
    assert tags["promotion.eval.kl"] == "9"
    assert tags["promotion.eval.judge.win_rate_vs_sft"] == "0.666667"
    assert "promotion.approver" not in tags


def test_a_verdict_that_waits_says_until_when() -> None:
    until = datetime(2026, 11, 28, 12, 30, tzinfo=UTC)
    report = verdict_report(decision("approval"), INPUTS, expires_at=until)
    assert expiry_of(report.data) == until
    assert report.data["promote"] is False
    assert "2026-11-28 12:30 UTC" in report.html
