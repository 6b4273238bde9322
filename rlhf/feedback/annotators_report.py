"""The annotators' part of the report of the views: agreement by question, and each annotator's figures."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rlhf.feedback.annotators import MOST_IN_OVERLAP, AnnotatorFigures, QuestionFigures
from rlhf.report import Cell, ReportBuilder

_SHOWN_ANNOTATORS = 40


def annotators_section(report: ReportBuilder, questions: Sequence[QuestionFigures]) -> None:
    """Add the figures of all questions to a report: all of them to its data, the busiest annotators' to the
    page."""
    report.data["annotators"] = [_as_data(question) for question in questions]
    if not questions:
        return
    report.heading("Agreement of annotators")
    report.note(
        "Krippendorff's alpha: 1 is perfect agreement, 0 is chance; with a 95 % bootstrap interval over "
        "items. Nominal for comparisons and labels, ordinal for rankings, interval for ratings."
    )
    report.table(
        ["question", "kind", "judgements", "items", "judged more than once", "alpha", "low", "high"],
        [[q.name, q.kind, q.judgements, q.items, *_agreement_cells(q)] for q in questions],
    )
    for question in questions:
        _annotators_table(report, question)


def _agreement_cells(question: QuestionFigures) -> list[Cell]:
    agreement = question.agreement
    if agreement is None:
        return [0, None, None, None]
    return [agreement.items, agreement.alpha, agreement.interval.low, agreement.interval.high]


def _annotators_table(report: ReportBuilder, question: QuestionFigures) -> None:
    shown = question.annotators[:_SHOWN_ANNOTATORS]
    report.heading(f"Annotators of {question.name}")
    rest = (
        ""
        if len(shown) == len(question.annotators)
        else (f" The {len(shown)} of most judgements, of {len(question.annotators):,}.")
    )
    report.note(
        "With the others: share of judgements that equal the majority of the others. Reliability: "
        "probability of the true answer by Dawid and Skene's model. First: share of choices for the answer "
        f"shown first, with the p-value of its being one half. Seconds: median between two judgements.{rest}"
    )
    report.table(
        [
            "annotator", "judgements", "shared", "with the others", "reliability", "bias", "first", "p",
            "most frequent answer", "longest run", "seconds",
        ],
        [_cells(annotator) for annotator in shown],
    )  # fmt: skip
    if len(shown) > 1:
        names = [annotator.name for annotator in shown[:MOST_IN_OVERLAP]]
        report.note("Items that two of them both judged.")
        report.table(["", *names], [[name, *row] for name, row in zip(names, question.overlap, strict=True)])


def _cells(annotator: AnnotatorFigures) -> list[Cell]:
    return [
        annotator.name,
        annotator.judgements,
        annotator.shared,
        annotator.agreement,
        annotator.reliability,
        annotator.bias,
        annotator.first_share,
        annotator.first_p,
        annotator.modal_share,
        annotator.longest_run,
        annotator.seconds,
    ]


def _as_data(question: QuestionFigures) -> dict[str, Any]:
    return asdict(question)
