import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf.evaluation.intervals import wilson_interval
from rlhf.feedback.aggregation.dawid_skene import dawid_skene
from rlhf.feedback.aggregation.majority import label_counts, plurality
from rlhf.feedback.annotators import QuestionFigures, annotator_figures
from rlhf.feedback.annotators_report import annotators_section
from rlhf.feedback.ingest import ingest
from rlhf.feedback.rows import AnnotationRow, Message, to_table
from rlhf.feedback.settings import FeedbackSettings
from rlhf.report import ReportBuilder

PROMPT = (Message(role="user", content="Hi"),)
DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "public"
_NEEDS_DATA = pytest.mark.skipif(
    not DATA.exists(), reason="the shared public data is not beside this checkout"
)


def row(annotator: str, value: Any, *responses: str, kind: str = "comparison", **more: Any) -> AnnotationRow:
    fields = {"record_id": "r", "source": "s", "question": "q", **more}
    return AnnotationRow(
        prompt=PROMPT,
        responses=responses or ("a", "b"),
        kind=kind,
        value=value,
        annotator=annotator,
        **fields,
    )  # type: ignore[arg-type]


def figures(*rows: AnnotationRow) -> list[QuestionFigures]:
    return annotator_figures(to_table(rows).to_pylist())


def by_name(question: QuestionFigures) -> dict[str, Any]:
    return {annotator.name: annotator for annotator in question.annotators}


def crowd() -> list[AnnotationRow]:
    """Three good annotators, one who prefers the first answer, one adversary; 200 pairs, 20 seconds apart."""
    rng = random.Random(0)
    rows = []
    for n in range(200):
        truth = rng.randint(0, 1)
        choices = {f"good {k}": truth if rng.random() < 0.9 else 1 - truth for k in range(3)}
        choices |= {
            "first": int(rng.random() < 0.05),
            "adversary": 1 - truth if rng.random() < 0.9 else truth,
        }
        when = f"2026-01-01T{n // 180:02}:{n // 3 % 60:02}:{n % 3 * 20:02}Z"
        rows += [row(who, value, record_id=f"r{n:03}", updated_at=when) for who, value in choices.items()]
    return rows


def test_good_biased_and_adversarial_annotators_are_told_apart() -> None:
    (question,) = figures(*crowd())
    of = by_name(question)
    for name in ("good 0", "good 1", "good 2"):
        assert of[name].reliability > 0.85
        assert of[name].agreement > 0.65
        assert of[name].first_p > 0.01
    assert of["adversary"].reliability < 0.2
    assert of["adversary"].agreement < 0.35
    assert of["first"].first_share > 0.9
    assert of["first"].first_interval == wilson_interval(round(of["first"].first_share * 200), 200)
    assert of["first"].first_p < 1e-9
    assert of["first"].longest_run > 20
    assert of["first"].modal_share == of["first"].first_share
    assert of["good 0"].seconds == 20.0
    assert question.overlap == ((200,) * 5,) * 5
    assert (question.judgements, question.items) == (1000, 200)


def test_the_order_of_rows_makes_no_difference() -> None:
    rows = crowd()
    assert figures(*rows) == figures(*random.Random(1).sample(rows, len(rows)))


def test_sides_shown_in_another_order_are_the_same_pair() -> None:
    (question,) = figures(row("ada", 0, "a", "b"), row("ben", 1, "b", "a"), row("cid", None, "b", "a"))
    assert question.items == 1
    of = by_name(question)
    assert of["ada"].agreement is None  # ben and cid are divided
    assert of["cid"].agreement == 0.0
    assert (of["ada"].shared, of["cid"].shared) == (0, 1)


def test_only_submitted_judgements_count_and_questions_are_apart() -> None:
    questions = figures(
        row("ada", 0),
        row("ada", 0, question="other"),
        row("ben", 0, status="draft"),
        row("ben", "text", "a", kind="text-edit"),
    )
    assert [(q.question, q.judgements) for q in questions] == [("other", 1), ("q", 1)]
    assert figures() == []


def test_ratings_have_a_bias_and_an_interval_alpha() -> None:
    rows = [
        row(who, n % 5 + shift, "x", kind="rating", record_id=f"r{n}")
        for n in range(20)
        for who, shift in (("ada", 0.0), ("ben", 0.0), ("generous", 1.5))
    ]
    (question,) = figures(*rows, row("alone", 3, "x", kind="rating", record_id="alone"))
    of = by_name(question)
    assert of["generous"].bias == pytest.approx(1.5)
    assert of["ada"].bias == pytest.approx(-0.75)
    assert of["alone"].bias is None
    assert of["ada"].reliability is None
    assert question.agreement is not None
    assert 0 < question.agreement.alpha < 1


def test_rankings_are_compared_pair_by_pair() -> None:
    rows = [
        row(who, ranks, "a", "b", "c", kind="ranking", record_id=f"r{n}")
        for n in range(10)
        for who, ranks in (("ada", [1, 2, 3]), ("ben", [1, 2, 3]), ("eve", [3, 2, 1]))
    ]
    (question,) = figures(*rows)
    of = by_name(question)
    assert (of["ada"].judgements, of["ada"].shared, of["eve"].shared) == (10, 0, 30)
    assert of["eve"].agreement == 0.0
    assert (question.items, question.judgements) == (30, 30)


def test_labels_are_compared_without_regard_to_case() -> None:
    (question,) = figures(
        row("ada", "Good", "x", kind="label"),
        row("ben", "good ", "x", kind="label"),
        row("cid", True, "x", kind="label"),
    )
    of = by_name(question)
    assert of["cid"].agreement == 0.0
    assert of["cid"].shared == 1


def test_times_that_say_nothing_give_no_pace() -> None:
    (question,) = figures(*(row("ada", 0, record_id=str(n)) for n in range(3)))
    assert (question.annotators[0].seconds, question.annotators[0].longest_run) == (None, None)


def test_the_page_shows_every_question_and_the_data_every_annotator() -> None:
    rows = [row(f"annotator {k:02}", n % 2, record_id=f"r{n}") for n in range(4) for k in range(50)]
    report = ReportBuilder("t")
    annotators_section(report, figures(*rows))
    page = report.build()
    assert len(page.data["annotators"][0]["annotators"]) == 50
    assert "annotator 39" in page.html
    assert "annotator 45" not in page.html
    assert "The 40 of most judgements, of 50." in page.html


@_NEEDS_DATA
@pytest.mark.parametrize(
    ("file", "alpha"),
    [("preference/ukpconvarg1_test.jsonl.gz", 0.256), ("multi_annotator/pandalm_testset_v1.jsonl.gz", 0.864)],
)
def test_published_judgements_agree_as_published(file: str, alpha: float) -> None:
    settings = FeedbackSettings.model_validate({"sources": [{"type": "file", "path": DATA / file}]})
    (question,) = annotator_figures(ingest(settings).table.to_pylist())
    assert question.agreement is not None
    assert question.agreement.alpha == pytest.approx(alpha, abs=0.002)


@_NEEDS_DATA
def test_an_annotator_model_is_nearer_to_the_publishers_gold_labels_than_the_majority() -> None:
    from benchmarks.annotator_agreement import judgements

    items, annotators, labels, gold = judgements(DATA / "preference/ukpconvarg1_test.jsonl.gz")
    majority = plurality(label_counts(items, labels, 3))
    modelled = dawid_skene(items, annotators, labels, label_count=3).posterior.argmax(axis=1)
    known = gold >= 0
    assert np.mean(modelled[known] == gold[known]) > np.mean(majority[known] == gold[known]) + 0.02
