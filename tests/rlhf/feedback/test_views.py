import math
import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.errors import DataError
from rlhf.feedback.ingest import ingest
from rlhf.feedback.rows import ROW_SCHEMA, AnnotationRow, Message, prompt_hash, to_table
from rlhf.feedback.settings import DatasetSettings, FeedbackSettings
from rlhf.feedback.settings_aggregation import AggregationSettings
from rlhf.feedback.splits import SPLITS, fold_of, split_of
from rlhf.feedback.views import Views, prepare

ALL_TRAIN = DatasetSettings(test_fraction=0, dev_fraction=0, near_duplicate_threshold=None)
VIEWS = ("demonstrations", "comparisons", "ratings", "prompts", "text")


def row(kind: str, value: Any, *responses: str, prompt: str = "Hi", **more: Any) -> AnnotationRow:
    messages = (Message(role="user", content=prompt),) if prompt else ()
    fields = {"record_id": "r", "source": "s", **more}
    return AnnotationRow(prompt=messages, responses=responses, kind=kind, value=value, **fields)  # type: ignore[arg-type]


def views(*rows: AnnotationRow, **how: Any) -> Views:
    return prepare(to_table(rows), ALL_TRAIN.model_copy(update=how))


def texts(view: Iterable[dict[str, Any]], *columns: str) -> list[tuple[Any, ...]]:
    """Rows of a view with messages as their text."""
    return [
        tuple(v[0]["content"] if isinstance(v := entry[column], list) else v for column in columns)
        for entry in view
    ]


def content(made: Views) -> dict[str, dict[str, set[str]]]:
    return {
        name: {side: {repr(r) for r in data} for side, data in getattr(made, name).items()} for name in VIEWS
    }


def test_views_have_the_columns_and_formats_of_trl() -> None:
    made = views(row("demonstration", " Hello "), row("comparison", 0, "a", "b"))
    assert made.demonstrations["train"].to_list() == [
        {
            "prompt": [{"role": "user", "content": "Hi"}],
            "completion": [{"role": "assistant", "content": "Hello"}],
            "weight": 1.0,
            "record_id": "r",
        }
    ]
    assert made.comparisons["train"].to_list() == [
        {
            "prompt": [{"role": "user", "content": "Hi"}],
            "chosen": [{"role": "assistant", "content": "a"}],
            "rejected": [{"role": "assistant", "content": "b"}],
            "weight": 1.0,
            "margin": 0.0,
            "agreement": 1.0,
            "fold": fold_of([Message(role="user", content="Hi")], 2, ""),
            "record_id": "r",
        }
    ]
    assert made.prompts["train"].to_list() == [
        {"prompt": [{"role": "user", "content": "Hi"}], "record_id": "r"}
    ]
    assert made.text["train"].to_list() == [{"text": "Hi\n\nHello"}]


def test_an_empty_side_has_the_columns_of_the_full_one() -> None:
    made = views(row("demonstration", "Hello"))
    for name in VIEWS:
        view = getattr(made, name)
        assert view["test"].features == view["train"].features
        assert len(view["test"]) == 0


def test_only_submitted_rows_train_but_a_drafts_prompt_may_be_answered() -> None:
    made = views(
        row("demonstration", "a", prompt="submitted"),
        row("demonstration", "b", prompt="draft", status="draft"),
        row("demonstration", "c", prompt="discarded", status="discarded"),
    )
    assert texts(made.demonstrations["train"], "prompt") == [("submitted",)]
    assert {p for (p,) in texts(made.prompts["train"], "prompt")} == {"submitted", "draft"}
    assert made.report.data["left_out"]["rows"] == {"draft rows": 1, "discarded rows": 1}


def test_annotators_of_one_pair_are_settled_by_majority_also_when_sides_were_swapped() -> None:
    made = views(
        row("comparison", 0, "a", "b", annotator="ada"),
        row("comparison", 1, "b", "a ", annotator="ben"),
        row("comparison", 0, "b", "a", annotator="cid"),
        row("comparison", None, "a", "b", annotator="dan"),
    )
    (pair,) = texts(made.comparisons["train"], "chosen", "rejected", "agreement")
    assert pair == ("a", "b", pytest.approx(2 / 3))


def test_the_latest_judgement_of_an_annotator_replaces_the_earlier_ones() -> None:
    early = row("comparison", 0, "a", "b", annotator="ada", updated_at="2026-01-01")
    late = row("comparison", 1, "a", "b", annotator="ada", updated_at="2026-01-02")
    made = views(late, early)
    assert texts(made.comparisons["train"], "chosen") == [("b",)]
    assert made.report.data["left_out"]["rows"] == {"revised later by the same annotator": 1}
    withdrawn = replace(late, status="discarded", updated_at="2026-01-03")
    assert len(views(early, late, withdrawn, row("demonstration", "x")).comparisons["train"]) == 0
    nameless = (replace(early, annotator="unknown"), replace(late, annotator="unknown"))
    assert views(*nameless, row("demonstration", "x")).report.data["left_out"]["comparisons"] == {
        "no majority": 1
    }


def test_ratings_are_averaged_over_annotators_but_not_over_questions() -> None:
    made = views(
        row("rating", 5, "a", question="tone", annotator="ada"),
        row("rating", 2, " a ", question="tone", annotator="ben", record_id="q"),
        row("rating", 1, "a", question="truth", annotator="ada"),
        row("rating", 4, "", question="tone"),
    )
    columns = ("prompt", "completion", "rating", "question", "record_id")
    assert texts(made.ratings["train"], *columns) == [
        ("Hi", "", 4.0, "tone", "r"),
        ("Hi", "a", 3.5, "tone", "q"),
        ("Hi", "a", 1.0, "truth", "r"),
    ]
    assert made.ratings["train"]["fold"][:] == [fold_of([Message(role="user", content="Hi")], 2, "")] * 3


def test_a_rated_text_has_no_prompt_and_is_compared_with_nothing() -> None:
    made = views(row("rating", 5, "a good text", prompt=""), row("rating", 1, "a bad text", prompt=""))
    assert sorted(made.ratings["train"]["rating"]) == [1.0, 5.0]
    assert made.ratings["train"]["prompt"][:] == [[], []]
    assert [len(view["train"]) for view in (made.comparisons, made.prompts, made.text)] == [0, 0, 0]


def test_rated_texts_are_split_by_their_text_and_copies_of_test_are_left_out() -> None:
    rated = [row("rating", n % 7, f"text {n} about {n * n}", prompt="") for n in range(60)]
    how = ALL_TRAIN.model_copy(update={"test_fraction": 0.3})
    first, again = (prepare(to_table(rows), how) for rows in (rated, rated[::-1]))
    assert content(first)["ratings"] == content(again)["ratings"]
    assert len(first.ratings["test"]) > 5
    kept = texts(first.ratings["test"], "completion")[0][0]
    closer = how.model_copy(update={"near_duplicate_threshold": 0.8})
    copies = [row("rating", 1, f"{kept}{'.' * n}", prompt="") for n in range(1, 6)]
    made = prepare(to_table([*rated, *copies]), closer)
    assert not [t for (t,) in texts(made.ratings["train"], "completion") if t.startswith(kept + ".")]


def test_rankings_ratings_labels_and_edits_become_comparisons() -> None:
    made = views(
        row("ranking", [2, 1, 2], "a", "b", "c", prompt="ranking"),
        row("rating", 5, "a", prompt="rating"),
        row("rating", 3.5, "b", prompt="rating"),
        row("label", True, "a", prompt="label"),
        row("label", "Bad", "b", prompt="label"),
        row("text-edit", "one two three", "one two 3", prompt="edit"),
    )
    assert set(texts(made.comparisons["train"], "prompt", "chosen", "rejected", "margin")) == {
        ("ranking", "b", "a", 1.0),
        ("ranking", "b", "c", 1.0),
        ("rating", "a", "b", 1.5),
        ("label", "a", "b", 0.0),
        ("edit", "one two three", "one two 3", 0.0),
    }
    assert texts(made.demonstrations["train"], "prompt", "completion") == [("edit", "one two three")]


def test_good_labels_are_demonstrations_only_on_request() -> None:
    labelled = (row("label", "good", "a"), row("label", "bad", "b"), row("label", "so-so", "c"))
    assert len(views(*labelled).demonstrations["train"]) == 0
    made = views(*labelled, demonstrations_from_labels=True)
    assert texts(made.demonstrations["train"], "completion") == [("a",)]
    assert made.report.data["left_out"]["comparisons"] == {"label neither good nor bad": 1}


def test_a_hardly_changed_edit_is_a_demonstration_but_no_comparison() -> None:
    original = "word " * 40
    made = views(row("text-edit", original + "end", original))
    assert (len(made.demonstrations["train"]), len(made.comparisons["train"])) == (1, 0)
    assert made.report.data["left_out"]["comparisons"] == {"edit closer than min_edit_distance": 1}


def test_too_short_completions_are_left_out_where_they_would_be_learned() -> None:
    made = views(
        row("demonstration", "ok", prompt="short"),
        row("demonstration", "long enough"),
        row("comparison", 0, "no", "long enough", prompt="p1"),
        row("comparison", 0, "long enough", "no", prompt="p2"),
        min_completion_chars=5,
    )
    assert texts(made.demonstrations["train"], "completion") == [("long enough",)]
    assert texts(made.comparisons["train"], "chosen", "rejected") == [("long enough", "no")]


def test_equal_demonstrations_of_two_sources_are_one() -> None:
    made = views(
        row("demonstration", "a", record_id="2"), row("demonstration", "a ", record_id="1", source="t")
    )
    assert texts(made.demonstrations["train"], "record_id") == [("1",)]
    assert made.report.data["left_out"]["demonstrations"] == {"same prompt and completion": 1}


def test_prompts_that_differ_in_outer_whitespace_are_one_prompt() -> None:
    made = views(row("demonstration", "a", prompt="Hi"), row("demonstration", "b", prompt=" Hi\n"))
    assert len(made.prompts["train"]) == 1
    assert len(made.demonstrations["train"]) == 2


def test_text_without_prompt_is_for_the_text_view_alone_and_then_the_only_text() -> None:
    made = views(row("demonstration", "Once upon", prompt=""), row("demonstration", "Hello"))
    assert texts(made.text["train"], "text") == [("Once upon",)]
    assert len(made.demonstrations["train"]) == len(made.prompts["train"]) == 1


def test_text_from_demonstrations_keeps_to_their_sides() -> None:
    rows = [row("demonstration", f"answer {n}", prompt=f"prompt {n}") for n in range(200)]
    made = prepare(to_table(rows), DatasetSettings(near_duplicate_threshold=None))
    for side in SPLITS:
        held = {p for (p,) in texts(made.demonstrations[side], "prompt")}
        assert {t.split("\n")[0] for (t,) in texts(made.text[side], "text")} == held
        assert held


def test_near_duplicates_of_held_out_prompts_leave_training_and_nothing_moves() -> None:
    stem = "please tell me, in your own words, where exactly the parcel of last Tuesday has got to, number"
    rows = [row("demonstration", "a", prompt=f"{stem} {n}", record_id=str(n)) for n in range(60)]
    rows += [row("demonstration", "b", prompt="When do you open on Sundays?")]
    how = DatasetSettings(test_fraction=0.3, near_duplicate_threshold=0.85)
    filtered, plain = (
        prepare(to_table(rows), how),
        prepare(to_table(rows), how.model_copy(update={"near_duplicate_threshold": None})),
    )
    assert texts(filtered.demonstrations["train"], "completion") == [("b",)]
    assert len(plain.demonstrations["train"]) > 20
    for side in ("dev", "test"):
        assert content(filtered)["prompts"][side] == content(plain)["prompts"][side]
    left_out = len(plain.demonstrations["train"]) - 1
    assert filtered.report.data["near_duplicate_prompts"] == left_out
    assert filtered.report.data["left_out"]["demonstrations"] == {"near-duplicate of dev or test": left_out}


def test_folds_are_those_of_the_prompt() -> None:
    rows = [row("comparison", 0, "a", "b", prompt=f"p{n}") for n in range(40)]
    made = views(*rows, folds=3, split_salt="x")
    for entry in made.comparisons["train"]:
        assert entry["fold"] == fold_of(entry["prompt"], 3, "x")
    assert set(made.comparisons["train"]["fold"]) == {0, 1, 2}


@pytest.mark.parametrize(
    "rows",
    [(), (row("demonstration", "a", status="discarded"),)],
    ids=["no rows", "only discarded rows"],
)
def test_nothing_left_at_all_is_an_error(rows: tuple[AnnotationRow, ...]) -> None:
    with pytest.raises(DataError, match="No feedback is left"):
        views(*rows)


def test_the_report_counts_what_came_in_what_was_left_out_and_what_it_looks_like() -> None:
    made = views(
        row("comparison", 0, "longer", "b", annotator="ada"),
        row("comparison", 1, "c", "d", annotator="ben", prompt="<b>Hm</b>"),
        row("demonstration", "Hello", source="t"),
    )
    assert made.report.data["rows"] == [
        {"source": "s", "kind": "comparison", "status": "submitted", "rows": 2, "annotators": 2},
        {"source": "t", "kind": "demonstration", "status": "submitted", "rows": 1, "annotators": 1},
    ]
    assert made.report.data["sizes"]["comparisons"] == {"train": 2, "dev": 0, "test": 0}
    assert made.report.data["chosen_longer_share"] == 0.5
    assert made.report.data["lengths"]["demonstrations"]["completion"] == {
        "p50": 5,
        "p95": 5,
        "max": 5,
        "empty": 0,
        "cut_off_share": 1.0,
    }
    assert "&lt;b&gt;Hm" in made.report.html


_RESPONSES = st.sampled_from(["a", "b", "c", " a", "dd"])
_ROWS = st.builds(
    lambda made, prompt, n, who, when, status, spaced: replace(
        made,
        prompt=(Message(role="user", content=f"{prompt}{' ' * spaced}"),),
        record_id=f"r{n}",
        annotator=who,
        updated_at=when,
        status=status,
    ),
    st.one_of(
        st.builds(lambda v: row("demonstration", v), _RESPONSES),
        st.builds(
            lambda v, a, b: row("comparison", v, a, b), st.sampled_from([0, 1, None]), _RESPONSES, _RESPONSES
        ),
        st.builds(lambda v, a: row("rating", v, a), st.sampled_from([0.1, 0.2, 1, 3]), _RESPONSES),
        st.builds(lambda v, a: row("label", v, a), st.booleans(), _RESPONSES),
        st.builds(lambda v, a: row("text-edit", v, a), _RESPONSES, _RESPONSES),
        st.builds(lambda v: row("ranking", v, "a", "b", "c"), st.permutations([1, 2, 2])),
    ),
    st.sampled_from([f"prompt {n}" for n in range(8)]),
    st.integers(0, 3),
    st.sampled_from(["ada", "ben", "unknown"]),
    st.sampled_from(["", "2026-01-01", "2026-01-02"]),
    st.sampled_from(["submitted", "submitted", "draft"]),
    st.booleans(),
)


@given(st.lists(_ROWS, min_size=1, max_size=25), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_of_rows_changes_no_side_and_no_content(
    rows: list[AnnotationRow], rng: random.Random
) -> None:
    how = DatasetSettings(test_fraction=0.3, dev_fraction=0.2, near_duplicate_threshold=0.9)
    shuffled = rng.sample(rows, len(rows))
    made, again = prepare(to_table(rows), how), prepare(to_table(shuffled), how)
    for name in VIEWS:
        for side in SPLITS:
            assert getattr(made, name)[side].to_list() == getattr(again, name)[side].to_list()


@given(st.lists(_ROWS, min_size=1, max_size=25), st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_the_order_of_rows_changes_no_model_of_annotators(
    rows: list[AnnotationRow], rng: random.Random
) -> None:
    models = AggregationSettings(
        comparisons="dawid_skene",
        labels="dawid_skene",
        rankings="bradley_terry",
        weight="confidence",
        margin="log_odds",
    )
    how = DatasetSettings(
        near_duplicate_threshold=None, aggregation=models, pairs_from_discarded=True, contradictions="drop"
    )
    made, again = prepare(to_table(rows), how), prepare(to_table(rng.sample(rows, len(rows))), how)
    assert content(made) == content(again)
    assert made.report.data == again.report.data


@given(st.lists(_ROWS, min_size=1, max_size=25), st.lists(_ROWS, max_size=10))
@settings(max_examples=40, deadline=None)
def test_a_prompt_stands_on_one_side_and_later_rows_do_not_move_it(
    rows: list[AnnotationRow], later: list[AnnotationRow]
) -> None:
    how = DatasetSettings(test_fraction=0.3, dev_fraction=0.2, near_duplicate_threshold=None)
    sides: dict[str, set[str]] = {}
    for made in (prepare(to_table(rows), how), prepare(to_table([*rows, *later]), how)):
        for name in ("demonstrations", "comparisons", "prompts"):
            for side in SPLITS:
                for entry in getattr(made, name)[side]:
                    sides.setdefault(prompt_hash(entry["prompt"]), set()).add(side)
                    assert split_of(entry["prompt"], how) == side
    assert all(len(found) == 1 for found in sides.values())


def test_the_whole_sample_becomes_views_quickly_and_repeatably() -> None:
    source = {"type": "sample", "settings": {"demonstrations": 600, "comparisons": 400}}
    table = ingest(FeedbackSettings.model_validate({"sources": [source]})).table
    made, again = (
        prepare(table, DatasetSettings()),
        prepare(table.take(pa.array(range(len(table))[::-1])), DatasetSettings()),
    )
    assert content(made) == content(again)
    assert len(made.comparisons["train"]) > 200
    assert len(made.demonstrations["test"]) > 20
    assert table.schema == ROW_SCHEMA


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
