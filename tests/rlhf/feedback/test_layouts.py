import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf.errors import DataError
from rlhf.feedback.ingest import ingest
from rlhf.feedback.layouts import BY_NAME, LAYOUTS, choose_layout, nearest_layout
from rlhf.feedback.records import Quarantined, Record
from rlhf.feedback.rows import AnnotationRow, from_table
from rlhf.feedback.settings import LAYOUT_NAMES, FeedbackSettings

PUBLIC_DATA = Path(__file__).parents[3] / "../shared/data/public"

USER = ("user",)
# layout, record, (roles of the prompt, responses, kind, value) of each row
EXAMPLES: list[tuple[str, dict[str, Any], list[tuple[tuple[str, ...], tuple[str, ...], str, Any]]]] = [
    (
        "annotation-rows",
        {
            "record_id": "r",
            "prompt": [{"role": "user", "content": "Hi"}],
            "responses": ["a", "b"],
            "kind": "comparison",
            "value": "1",
        },
        [(USER, ("a", "b"), "comparison", 1)],
    ),
    (
        "ukp-convincing-arguments",
        {
            "arg1": {"text": "x", "stance": "Yes"},
            "arg2": {"text": "y", "stance": "Yes"},
            "debateMetaData": {"title": "Tea?"},
            "mTurkAssignments": [
                {"turkID": "w1", "value": "a2"},
                {"turkID": "w2", "value": "equal"},
            ],
        },
        [(USER, ("x", "y"), "comparison", 1), (USER, ("x", "y"), "comparison", None)],
    ),
    (
        "pandalm",
        {
            "idx": 3,
            "instruction": "Is it?",
            "input": "This",
            "response1": True,
            "response2": "no",
            "annotator1": 1,
            "annotator2": 0,
        },
        [
            (("context", "user"), ("True", "no"), "comparison", 0),
            (("context", "user"), ("True", "no"), "comparison", None),
        ],
    ),
    (
        "argilla-dolly-falcon",
        {"prompt": "Hi", "original_response": "a", "response-1": "b", "category": "qa"},
        [(USER, ("a", "b"), "comparison", 0)],
    ),
    (
        "better-poorer",
        {"question": "Hi", "better_response": "a", "poorer_response": "b"},
        [(USER, ("a", "b"), "comparison", 0)],
    ),
    (
        "prompt-chosen-rejected",
        {"prompt": "Hi", "chosen": "a", "rejected": "b"},
        [(USER, ("a", "b"), "comparison", 0)],
    ),
    (
        "prompt-completion-reward",
        {"prompt": "Hi", "completion": "a", "reward": 0.5},
        [(USER, ("a",), "rating", 0.5)],
    ),
    (
        "prompt-completion-reward",
        {"prompt": [{"role": "user", "content": "Hi"}], "response": "a", "score": "-2"},
        [(USER, ("a",), "rating", -2.0)],
    ),
    ("sample-reward", {"sample": "Hi there", "reward": 1}, [((), ("Hi there",), "rating", 1.0)]),
    ("sample-reward", {"sample": ["Hi", "a"], "score": 1.5}, [(USER, ("a",), "rating", 1.5)]),
    ("sample-reward", {"text": "Hi there", "reward": "3"}, [((), ("Hi there",), "rating", 3.0)]),
    (
        "chosen-rejected",
        {"chosen": "\n\nHuman: Hi\n\nAssistant: a", "rejected": "\n\nHuman: Hi\n\nAssistant: b"},
        [(USER, ("a", "b"), "comparison", 0)],
    ),
    (
        "taskmaster-reward",
        {
            "context": json.dumps(
                [
                    {"role": "user", "text": "Tea"},
                    {"role": "agent", "api": {"find": "tea"}},
                    {"role": "api", "response": {"find": "yes"}},
                ]
            ),
            "generation": json.dumps({"role": "agent", "text": "Here"}),
            "reward": 1.0,
        },
        [(("user", "assistant", "system"), ("Here",), "label", True)],
    ),
    (
        "prompt-completion-label",
        {"prompt": "Hi", "completion": "a", "label": False},
        [(USER, ("a",), "label", False)],
    ),
    (
        "messages",
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "a"},
                {"role": "user", "content": "Bye"},
            ]
        },
        [(("system", "user"), (), "demonstration", "a")],
    ),
    (
        "messages",
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "a"}]},
        [(USER, (), "demonstration", "a")],
    ),
    (
        "instruction-context-response",
        {"instruction": "Hi", "context": "", "response": "a"},
        [(USER, (), "demonstration", "a")],
    ),
    (
        "instruction-context-response",
        {"instruction": "Hi", "context": "Facts", "response": "a", "category": "qa"},
        [(("context", "user"), (), "demonstration", "a")],
    ),
    (
        "instruction-input-output",
        {"instruction": "Hi", "input": "x", "output": "a"},
        [(("context", "user"), (), "demonstration", "a")],
    ),
    (
        "instruction-input-output",
        {"instruction": "Hi", "instances": [{"input": "", "output": "a"}, {"input": "x", "output": "b"}]},
        [(USER, (), "demonstration", "a"), (("context", "user"), (), "demonstration", "b")],
    ),
    ("question-answer", {"question": "Hi", "answer": "a"}, [(USER, (), "demonstration", "a")]),
    ("prompt-completion", {"prompt": "Hi", "completion": "a"}, [(USER, (), "demonstration", "a")]),
    ("mt-bench", {"question_id": 81, "turns": ["Hi", "More"]}, [(USER, (), "demonstration", "")]),
    ("prompts", {"id": 1, "prompt": "Hi", "type": "greeting"}, [(USER, (), "demonstration", "")]),
    ("text", {"doc": 0, "text": "Once"}, [((), (), "demonstration", "Once")]),
]


@pytest.mark.parametrize(("name", "record", "expected"), EXAMPLES)
def test_a_layout_is_recognised_and_read(name: str, record: dict[str, Any], expected: list) -> None:
    layout = choose_layout("s", [record])
    assert layout.name == name
    rows = list(layout.read([Record(1, record)], "s"))
    assert all(isinstance(row, AnnotationRow) for row in rows)
    assert [(tuple(m["role"] for m in r.prompt), r.responses, r.kind, r.value) for r in rows] == expected


def test_a_prompt_without_answer_is_a_draft() -> None:
    (row,) = BY_NAME["mt-bench"].read([Record(1, {"turns": ["Hi"]})], "s")
    assert isinstance(row, AnnotationRow)
    assert row.status == "draft"


def test_settings_name_exactly_the_layouts_there_are() -> None:
    assert tuple(layout.name for layout in LAYOUTS) == LAYOUT_NAMES


def test_unknown_columns_are_an_error_that_names_the_nearest_layout() -> None:
    with pytest.raises(DataError, match=r"columns choosen, prompt, rejected.*'prompt-chosen-rejected'"):
        choose_layout("s", [{"prompt": "a", "choosen": "b", "rejected": "c"}])


def test_a_prompt_beside_other_long_text_is_not_taken_for_a_bare_prompt() -> None:
    with pytest.raises(DataError, match="no known layout"):
        choose_layout("s", [{"prompt": "Hi", "by_ada": "word " * 50}])


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ({"better": "Yes, sir.", "worse": "No."}, "prompt-chosen-rejected"),
        ({"winner": "a", "loser": "b"}, None),
        ({"good": "a", "bad": "b"}, None),
        ({"preferred": "a", "other": "b"}, None),
        ({"answer_1": "a", "answer_2": "b", "label": 1}, None),
        ({"text_a": "a", "text_b": "b"}, None),
        ({"textA": "a", "textB": "b"}, None),
        ({"option1": "a", "option2": "b"}, None),
        ({"reply": "a"}, "prompt-completion"),
        ({"by_ada": "It is on its way."}, None),
    ],
)
def test_preferences_under_other_names_are_not_dropped_in_silence(
    given: dict[str, Any], nearest: str | None
) -> None:
    with pytest.raises(DataError, match="match no known layout") as refused:
        choose_layout("s", [{"prompt": "Hi", **given}])
    assert f"`layout: prompts` leaves {', '.join(sorted(set(given) - {'other'}))} out" in str(refused.value)
    assert "nearest is 'prompts'" not in str(refused.value)
    if nearest is not None:
        assert f"nearest is '{nearest}'" in str(refused.value)
    assert choose_layout("s", [{"prompt": "Hi", **given}], "prompts").name == "prompts"


@pytest.mark.parametrize(
    "metadata",
    [
        {"id": 3, "category": "greetings", "lang": "en"},
        {"source_title": "A manual of good manners", "tags": ["polite", "short"]},
        {"act": "Linux Terminal", "difficulty": "low"},
    ],
)
def test_prompts_with_their_metadata_are_bare_prompts(metadata: dict[str, Any]) -> None:
    assert choose_layout("s", [{"prompt": "Hi", **metadata}]).name == "prompts"


def test_a_named_layout_needs_its_columns() -> None:
    with pytest.raises(DataError, match="needs the columns answer, question, but has prompt"):
        choose_layout("s", [{"prompt": "a"}], "question-answer")


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        ({"instruction", "input", "outputs"}, "instruction-input-output"),
        ({"prompts", "chosen_text", "rejected_text"}, "prompt-chosen-rejected"),
        ({"questions", "answers"}, "question-answer"),
    ],
)
def test_the_nearest_layout_is_the_one_a_person_would_name(columns: set[str], name: str) -> None:
    assert nearest_layout(frozenset(columns)).name == name


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"sample": "Hi", "reward": None}, "reward is missing"),
        ({"sample": "Hi", "reward": "nan"}, "not a number"),
        ({"sample": "Hi", "reward": True}, "not a number"),
        ({"sample": "  ", "reward": 1}, "empty text"),
        ({"sample": ["Hi", "a", "b"], "reward": 1}, "neither text nor a list of prompt and output"),
    ],
)
def test_a_sample_without_text_or_number_is_refused(record: dict[str, Any], reason: str) -> None:
    (refused,) = BY_NAME["sample-reward"].read([Record(1, record)], "s")
    assert isinstance(refused, Quarantined)
    assert reason in refused.reason


@pytest.mark.parametrize(
    ("record", "layout"),
    [
        ({"text": "a page", "score": 0.98}, "text"),
        ({"text": "a page", "reward": "gold medal"}, "text"),
        ({"prompt": "Hi", "completion": "a", "score": "n/a"}, "prompt-completion"),
        ({"prompt": "Hi", "completion": "a", "score": 3, "label": True}, "prompt-completion-label"),
    ],
)
def test_only_numbers_that_are_meant_as_rewards_are_taken_for_them(
    record: dict[str, Any], layout: str
) -> None:
    assert choose_layout("s", [record]).name == layout


def test_a_lone_surrogate_is_refused_not_raised() -> None:
    (refused,) = BY_NAME["text"].read([Record(7, json.loads('{"text": "a \\ud800 b"}'))], "s")
    assert isinstance(refused, Quarantined)
    assert (refused.line, "surrogate" in refused.reason) == (7, True)


_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.just("\ud800"),
    st.binary(max_size=3),
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["role", "content", "text", "value", "from", "message_id", "replies", "title"]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=6,
)
_NEEDED = {column for layout in LAYOUTS for needed in layout.columns for column in needed}
_COLUMNS = [*sorted(_NEEDED), "input", "context", "rank", "deleted", "annotator2", "id", "idx", "status"]


@settings(suppress_health_check=[HealthCheck.too_slow])  # drawing records is slow on a busy machine
@given(
    st.sampled_from(LAYOUTS),
    st.lists(st.dictionaries(st.sampled_from(_COLUMNS), _VALUES, max_size=8), max_size=3),
)
def test_whatever_a_record_holds_it_is_read_or_refused(layout: Any, records: list[Mapping[str, Any]]) -> None:
    numbered = [Record(line, values) for line, values in enumerate(records, 1)]
    for outcome in layout.read(numbered, "s"):
        assert isinstance(outcome, AnnotationRow | Quarantined)


@pytest.mark.skipif(not PUBLIC_DATA.exists(), reason="the shared public data is not beside this checkout")
@pytest.mark.parametrize(
    ("file", "layout", "kinds", "refused"),
    [
        ("dolly15k_ci.jsonl.gz", "instruction-context-response", {"demonstration": 200}, {}),
        ("gsm8k_ci.jsonl.gz", "question-answer", {"demonstration": 60}, {}),
        ("hh_harmless_base_ci.jsonl.gz", "chosen-rejected", {"comparison": 80}, {}),
        (
            "oasst1_ci.jsonl.gz",
            "oasst-messages",
            {"demonstration": 30, "ranking": 30},
            {"message is marked as deleted": 1},
        ),
        ("pandalm_ci.jsonl.gz", "pandalm", {"comparison": 300}, {}),
        ("taskmaster4_reward_ci.jsonl.gz", "taskmaster-reward", {"label": 100}, {}),
        ("ukpconvarg1_ci.jsonl.gz", "ukp-convincing-arguments", {"comparison": 997}, {}),
    ],
)
def test_real_files_are_recognised_and_read_whole(
    file: str, layout: str, kinds: dict[str, int], refused: dict[str, int]
) -> None:
    settings = FeedbackSettings.model_validate(
        {"sources": [{"type": "file", "path": PUBLIC_DATA / "ci" / file}]}
    )
    result = ingest(settings)
    (source,) = result.report.data["sources"].values()
    assert (source["layout"], source["kinds"], source["quarantined"]) == (layout, kinds, refused)
    for row in from_table(result.table)[:20]:
        assert row.prompt[-1]["role"] in ("user", "system")


@pytest.mark.skipif(not PUBLIC_DATA.exists(), reason="the shared public data is not beside this checkout")
def test_the_bias_probes_are_not_taken_for_feedback() -> None:
    source = {"type": "file", "path": PUBLIC_DATA / "ci/crows_pairs_ci.jsonl.gz"}
    with pytest.raises(DataError, match="sent_more, stereo_antistereo, which match no known layout"):
        ingest(FeedbackSettings.model_validate({"sources": [source]}))
