"""What annotator models, agreement and the checks of quality do to the dataset views."""

import math
import random
from typing import Any

import pytest

from rlhf.errors import DataError
from rlhf.feedback.rows import AnnotationRow, Message, to_table
from rlhf.feedback.settings import DatasetSettings
from rlhf.feedback.settings_aggregation import AggregationSettings
from rlhf.feedback.splits import split_of
from rlhf.feedback.views import prepare
from tests.rlhf.feedback.view_rows import row, texts, views


def divided_pair(**more: Any) -> list[AnnotationRow]:
    """Three annotators prefer a, one b."""
    names = ("ada", "ben", "cid", "dan")
    return [row("comparison", int(n == 3), "a", "b", annotator=name, **more) for n, name in enumerate(names)]


def test_weight_and_margin_say_of_the_agreement_what_settings_ask_for() -> None:
    how = AggregationSettings(weight="confidence", margin="log_odds")
    (pair,) = views(*divided_pair(), aggregation=how).comparisons["train"].to_list()
    assert (pair["agreement"], pair["weight"]) == (0.75, 0.5)
    assert pair["margin"] == pytest.approx(math.log(3.5 / 1.5))
    (plain,) = views(*divided_pair()).comparisons["train"].to_list()
    assert (plain["agreement"], plain["weight"], plain["margin"]) == (0.75, 1.0, 0.0)


def test_demonstrations_from_divided_labels_weigh_less() -> None:
    rows = [
        row("label", label, response, annotator=who)
        for response, labels in (("sure", "ggg"), ("divided", "ggb"), ("poor", "bbg"))
        for who, label in zip(
            ("ada", "ben", "cid"), ("good" if g == "g" else "bad" for g in labels), strict=True
        )
    ]
    how = {"demonstrations_from_labels": True, "aggregation": AggregationSettings(weight="confidence")}
    weights = dict(texts(views(*rows, **how).demonstrations["train"], "completion", "weight"))
    assert weights == {"sure": 1.0, "divided": pytest.approx(1 / 3)}
    own = views(*rows, row("demonstration", "divided"), **how).demonstrations["train"]
    assert dict(texts(own, "completion", "weight"))["divided"] == 1.0


def test_an_annotator_model_outvotes_a_majority_of_careless_annotators() -> None:
    rng = random.Random(0)
    rows = []
    for n in range(150):
        good_first = rng.random() < 0.5
        sides = ("good", "bad") if good_first else ("bad", "good")
        for who in range(5):
            preferred = int(not good_first) if who < 2 else int(rng.random() < 0.15)
            rows.append(
                row("comparison", preferred, *sides, prompt=f"p{n}", record_id=f"r{n}", annotator=f"a{who}")
            )

    def right(method: str) -> float:
        made = views(*rows, aggregation=AggregationSettings(comparisons=method))  # type: ignore[arg-type]
        return sum(chosen == "good" for (chosen,) in texts(made.comparisons["train"], "chosen")) / 150

    print(f"majority {right('majority'):.3f}, Dawid-Skene {right('dawid_skene'):.3f}")
    assert right("dawid_skene") > 0.95 > right("majority") + 0.2


def test_rankings_of_several_annotators_may_be_fitted_together() -> None:
    rows = [
        row("ranking", ranks, "a", "b", "c", annotator=who)
        for who, ranks in (("ada", [1, 2, 3]), ("ben", [1, 3, 2]), ("cid", [1, 2, 3]))
    ]
    made = views(*rows, aggregation=AggregationSettings(rankings="bradley_terry"))
    pairs = {
        chosen + rejected: (margin, agreement)
        for chosen, rejected, margin, agreement in texts(
            made.comparisons["train"], "chosen", "rejected", "margin", "agreement"
        )
    }
    assert pairs.keys() == {"ab", "ac", "bc"}
    assert pairs["ac"][0] == pytest.approx(pairs["ab"][0] + pairs["bc"][0])
    for margin, agreement in pairs.values():
        assert agreement == pytest.approx(1 / (1 + math.exp(-margin)))


def test_the_same_name_in_two_sources_is_not_the_same_annotator() -> None:
    rows = [*divided_pair(source="one"), *divided_pair(source="two", prompt="other")]
    questions = views(*rows).report.data["annotators"]
    assert [question["source"] for question in questions] == ["one", "two"]


def test_too_little_agreement_stops_with_the_question_and_the_figure() -> None:
    rng = random.Random(0)
    rows = [
        row("comparison", rng.randint(0, 1), "a", "b", prompt=f"p{n}", record_id=f"r{n}", annotator=who)
        for n in range(60)
        for who in ("ada", "ben")
    ]
    assert len(views(*rows, minimum_agreement=-1.0).prompts["train"]) == 60
    with pytest.raises(DataError, match=r"'s: comparison' agree with an alpha of .*\.minimum_agreement 0\.4"):
        views(*rows, minimum_agreement=0.4)
    single = views(row("comparison", 0, "a", "b"), minimum_agreement=0.4)  # nobody to disagree with
    assert len(single.comparisons["train"]) == 1


def test_contradictions_are_counted_and_left_out_on_request() -> None:
    rows = [
        row("comparison", 0, *sides, record_id=str(n))
        for n, sides in enumerate((("a", "b"), ("b", "c"), ("c", "A "), ("a", "d"), ("x y", "X  y")))
    ]
    kept = views(*rows)
    assert len(kept.comparisons["train"]) == 5
    assert kept.report.data["contradictions"] == {"circular": 3, "equal sides": 1}
    dropped = views(*rows, contradictions="drop")
    assert texts(dropped.comparisons["train"], "chosen", "rejected") == [("a", "d")]
    assert dropped.report.data["left_out"]["comparisons"] == {
        "contradict each other": 3,
        "sides differ in case or spacing only": 1,
    }


def test_personal_data_is_reported_masked_or_left_out() -> None:
    rows = (
        row("demonstration", "Write to jo@example.org.", prompt="Who are you?"),
        row("demonstration", "Hello", prompt="I am jo@example.org"),
        row("demonstration", "fine"),
    )
    reported = views(*rows)
    assert reported.report.data["personal_data"] == {"rows": 2, "finds": {"EMAIL": 2}}
    assert len(reported.demonstrations["train"]) == 3
    masked = views(*rows, pii="mask")
    assert set(texts(masked.demonstrations["train"], "prompt", "completion")) == {
        ("Who are you?", "Write to [EMAIL]."),
        ("I am [EMAIL]", "Hello"),
        ("Hi", "fine"),
    }
    dropped = views(*rows, pii="drop")
    assert texts(dropped.demonstrations["train"], "completion") == [("fine",)]
    assert dropped.report.data["left_out"]["rows"] == {"personal data": 2}
    assert views(*rows, pii="ignore").report.data["personal_data"] == {"rows": 0, "finds": {}}


def test_training_prompts_that_quote_held_out_ones_are_left_out_and_counted() -> None:
    passage = "where exactly has my parcel of last Tuesday got to in the end please tell me now"
    held_out = [f"{passage} {n}" for n in range(40)]
    how = DatasetSettings(test_fraction=0.3, near_duplicate_threshold=None)
    test_prompts = {p for p in held_out if split_of([Message(role="user", content=p)], how) == "test"}
    rows = [row("demonstration", "a", prompt=p) for p in sorted(test_prompts)]
    preface = "Somebody wrote the following to us this morning, and nobody knows what it is about: "
    quoting = [f"{preface}{passage} {n}" for n in range(5)]
    rows += [row("demonstration", "b", prompt=p) for p in quoting]
    training = [p for p in quoting if split_of([Message(role="user", content=p)], how) == "train"]
    made, plain = (
        prepare(to_table(rows), how.model_copy(update={"contamination_ngram": n})) for n in (13, None)
    )
    assert texts(made.demonstrations["train"], "completion") == []
    assert len(plain.demonstrations["train"]) == len(training) > 0
    assert made.report.data["contaminated_prompts"] == len(training)


def test_discarded_demonstrations_lose_to_submitted_ones_only_on_request() -> None:
    rows = (
        row("demonstration", "good", annotator="ada"),
        row("demonstration", "bad", annotator="ada", status="discarded"),
        row("demonstration", "another", prompt="other", status="discarded"),
    )
    assert len(views(*rows).comparisons["train"]) == 0
    made = views(*rows, pairs_from_discarded=True)
    assert texts(made.comparisons["train"], "chosen", "rejected") == [("good", "bad")]
    assert texts(made.demonstrations["train"], "completion") == [("good",)]


def test_the_length_bias_of_comparisons_is_reported() -> None:
    made = views(
        row("comparison", 0, "a long answer", "short", prompt="p1"),
        row("comparison", 0, "a longer answer", "short", prompt="p2"),
        row("comparison", 1, "a long answer", "short", prompt="p3"),
    )
    bias = made.report.data["length_bias"]
    assert (bias["longer_chosen"], bias["pairs"]) == (pytest.approx(2 / 3), 3)
    assert "longer one is preferred in 66.7%" in made.report.html


def test_rows_in_unwanted_languages_are_left_out_of_every_view_and_counted() -> None:
    english = "I ordered a lamp last week and it has not arrived yet."
    german = "Ich habe vor drei Wochen eine Lampe bestellt und warte immer noch darauf."
    rows = [
        row("demonstration", "On its way.", prompt=prompt, record_id=prompt) for prompt in (english, german)
    ]
    kept = views(*rows, languages=("en",))
    assert [len(view["train"]) for view in (kept.demonstrations, kept.prompts)] == [1, 1]
    assert kept.report.data["left_out"]["rows"]["language not in languages"] == 1
    assert kept.report.data["languages"] == {"en": 1, "de": 1}
    counted = views(*rows, language_sample=9)
    assert len(counted.prompts["train"]) == 2
    assert "rows in language de" in counted.report.html
