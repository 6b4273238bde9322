import random
from dataclasses import replace

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
from rlhf.feedback.views import Views, derive, prepare, require_folds
from tests.rlhf.feedback.view_rows import ALL_TRAIN, row, texts, views

VIEWS = ("demonstrations", "comparisons", "ratings", "prompts", "text")


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
            "votes": 1,
            "source": "s",
            "fold": fold_of([Message(role="user", content="Hi")], 3, ""),
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
    assert made.ratings["train"]["fold"][:] == [fold_of([Message(role="user", content="Hi")], 3, "")] * 3


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


def test_a_reward_model_without_rows_is_named_before_anything_is_trained() -> None:
    numbered = {n: f"Question {n}?" for n in range(40)}
    folds = {n: fold_of([Message(role="user", content=text)], 3, "") for n, text in numbered.items()}
    some = [row("comparison", 0, "a", "b", prompt=numbered[n]) for n, fold in folds.items() if fold != 2]
    with pytest.raises(DataError, match=rf"None of the {len(some)} training comparisons .* model judge; add"):
        require_folds(views(*some).comparisons, "comparisons")
    rest = [row("comparison", 0, "a", "b", prompt=numbered[n]) for n, fold in folds.items() if fold == 2]
    require_folds(views(*some, *rest).comparisons, "comparisons")
    with pytest.raises(DataError, match=r"None of the 0 .* proxy or selection or judge; add"):
        require_folds(views(*some).ratings, "ratings")


def test_the_views_alone_are_those_of_the_whole_preparation() -> None:
    rows = [
        row("comparison", n % 2, "a", "b", prompt=f"Question {n}?", annotator=f"{n % 3}") for n in range(30)
    ]
    settings = DatasetSettings(minimum_agreement=None)
    made, alone = prepare(to_table(rows), settings), derive(to_table(rows), settings)
    for name in VIEWS:
        assert {side: data.to_list() for side, data in getattr(made, name).items()} == {
            side: data.to_list() for side, data in alone[name].items()
        }
