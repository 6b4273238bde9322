"""Sentences about when training is asked for."""

from rlhf.retraining.decision import Situation, decide, decision_report
from rlhf.retraining.drift import Drift
from rlhf.retraining.evidence import NewFeedback
from rlhf.retraining.settings import RetrainingSettings

SETTINGS = RetrainingSettings(minimum_new_pairs=10, maximum_age_days=30)


def _situation(new: NewFeedback | None = None, **figures: object) -> Situation:
    return Situation(**{"sequence": 7, "champion": "3", "champion_age_days": 1.0, "new": new, **figures})  # type: ignore[arg-type]


def test_without_a_champion_training_is_needed() -> None:
    assert decide(Situation(7), SETTINGS).needed


def test_feedback_that_a_run_was_trained_on_is_not_trained_on_again_even_without_a_champion() -> None:
    decision = decide(Situation(7, trained_already="run-1"), SETTINGS)
    assert decision.summary == "Not needed, because run run-1 was trained on exactly this feedback."


def test_enough_effective_pairs_are_needed_not_enough_comparisons() -> None:
    assert not decide(_situation(NewFeedback(40, 9.9, 5)), SETTINGS).needed
    assert decide(_situation(NewFeedback(12, 10.0, 5)), SETTINGS).needed


def test_a_drift_is_enough_and_named() -> None:
    drift = Drift("PSI of the prompts' words", 0.4, None, 0.25, True)
    decision = decide(_situation(NewFeedback(1, 1.0, 60, (drift,))), SETTINGS)
    assert decision.needed
    assert "PSI of the prompts' words 0.400" in decision.reason


def test_an_old_champion_is_replaced_only_if_anything_is_new() -> None:
    assert decide(_situation(NewFeedback(1, 1.0, 1), champion_age_days=31.0), SETTINGS).needed
    assert not decide(_situation(NewFeedback(0, 0.0, 0), champion_age_days=31.0), SETTINGS).needed


def test_erased_training_data_calls_for_a_new_champion() -> None:
    assert decide(_situation(training_data_gone=True), SETTINGS).needed


def test_the_report_holds_the_decision_and_its_figures() -> None:
    situation = _situation(NewFeedback(2, 1.5, 1))
    report = decision_report(decide(situation, SETTINGS), situation, SETTINGS)
    assert report.data["needed"] is False
    assert report.data["figures"]["new effective pairs"] == 1.5
    assert "Not needed" in report.html
