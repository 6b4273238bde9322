"""Whether to train again: a pure decision over figures, with every reason in words."""

from dataclasses import dataclass
from typing import Any

from rlhf.report import Report, ReportBuilder
from rlhf.retraining.evidence import NewFeedback
from rlhf.retraining.settings import RetrainingSettings


@dataclass(frozen=True)
class Situation:
    """What is known when the question is asked."""

    sequence: int
    """Where the ledger stands."""
    champion: str | None = None
    """Version of the champion; None before there is one."""
    champion_age_days: float | None = None
    trained_already: str | None = None
    """The latest completed training run whose feedback is exactly the present one."""
    training_data_gone: bool = False
    """Whether the champion's training data is no longer at hand, as after an erasure."""
    new: NewFeedback | None = None
    """None where it was not asked for because the question is settled already."""


@dataclass(frozen=True)
class RetrainingDecision:
    """The answer, and why."""

    needed: bool
    reason: str
    sequence: int

    @property
    def summary(self) -> str:
        """One sentence."""
        return f"{'Needed' if self.needed else 'Not needed'}, because {self.reason}."


def decide(situation: Situation, settings: RetrainingSettings) -> RetrainingDecision:
    """The first reason for training decides; without one, what was missing is said."""

    def answer(needed: bool, reason: str) -> RetrainingDecision:
        return RetrainingDecision(needed, reason, situation.sequence)

    if situation.trained_already is not None:
        return answer(False, f"run {situation.trained_already} was trained on exactly this feedback")
    if situation.champion is None:
        return answer(True, "there is no champion yet")
    if situation.training_data_gone or situation.new is None:
        return answer(True, "the data that the champion was trained on is no longer at hand")
    new, most_age = situation.new, settings.maximum_age_days
    counted = f"{new.effective:.1f} new effective pairs ({new.pairs:,} new comparisons)"
    if new.effective >= settings.minimum_new_pairs:
        return answer(True, f"there are {counted}, and {settings.minimum_new_pairs:g} are enough")
    drifted = [drift.summary for drift in new.drifts if drift.drifted]
    if drifted:
        return answer(True, f"feedback drifted from the champion's training data: {'; '.join(drifted)}")
    age = situation.champion_age_days
    if new.pairs and most_age is not None and age is not None and age >= most_age:
        return answer(True, f"the champion is {age:.1f} days old and there are {counted}")
    return answer(
        False,
        f"there are only {counted} of {settings.minimum_new_pairs:g}, "
        f"{'no drift' if new.drifts else 'too few new prompts to judge drift'}"
        + (f", and the champion is {age:.1f} days old" if age is not None else ""),
    )


def decision_report(
    decision: RetrainingDecision, situation: Situation, settings: RetrainingSettings
) -> Report:
    """The decision with the figures that it rests on."""
    page = ReportBuilder("Retraining check", subtitle=decision.summary)
    figures: dict[str, Any] = {
        "ledger sequence": situation.sequence,
        "champion": situation.champion,
        "age of the champion in days": situation.champion_age_days,
        "trained already by": situation.trained_already,
    }
    if situation.new is not None:
        figures |= {
            "new comparisons": situation.new.pairs,
            "new effective pairs": situation.new.effective,
            "effective pairs asked for": settings.minimum_new_pairs,
            "new prompts": situation.new.prompts,
        }
        page.heading("Drift against the champion's training data")
        page.table(
            ["test", "statistic", "p", "threshold", "drifted"],
            [[d.name, d.statistic, d.p_value, d.threshold, d.drifted] for d in situation.new.drifts],
        )
    page.heading("Figures")
    page.table(["figure", "value"], list(figures.items()))
    page.data |= {"needed": decision.needed, "reason": decision.reason, "summary": decision.summary}
    page.data |= {"sequence": decision.sequence, "figures": figures}
    return page.build()
