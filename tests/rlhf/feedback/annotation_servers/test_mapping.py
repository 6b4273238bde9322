from typing import Any

import pytest

from rlhf.errors import ConfigError
from rlhf.feedback.annotation_servers.mapping import Plan, plan_mapping
from rlhf.feedback.annotation_servers.schema import Field, FieldType, Question, QuestionType, Schema
from rlhf.feedback.annotation_servers.settings import MappingSettings

PAIR = ("prompt", "response-1", "response-2")


def plan(fields: Any, questions: dict[str, Any], /, **mapping: Any) -> Plan:
    typed = [(f, "text") if isinstance(f, str) else f for f in fields]
    asked = [
        Question(
            name, kind if isinstance(kind, str) else kind[0], options=() if isinstance(kind, str) else kind[1]
        )
        for name, kind in questions.items()
    ]
    schema = Schema(tuple(Field(*f) for f in typed), tuple(asked))
    return plan_mapping(schema, MappingSettings.model_validate(mapping), "desk")


def kinds(made: Plan) -> dict[str, tuple[str, str | None]]:
    return {name: (meaning.kind, meaning.about) for name, meaning in made.meanings.items()}


def test_a_curation_dataset_is_understood_by_its_names() -> None:
    made = plan(
        ["id", "category", "original-instruction", "original-context", "original-response"],
        {"new-instruction": "text", "new-context": "text", "new-response": "text"},
    )
    assert (made.prompt, made.context, made.responses) == (
        "original-instruction",
        ("original-context",),
        ("original-response",),
    )
    assert kinds(made) == {
        "new-instruction": ("prompt-edit", "original-instruction"),
        "new-context": ("prompt-edit", "original-context"),
        "new-response": ("text-edit", "original-response"),
    }


@pytest.mark.parametrize(
    "options",
    [("response-1", "response-2", "tie"), ("A", "B"), ("first", "second", "both"), ("1", "2", "equal")],
)
def test_a_label_question_over_two_responses_is_a_comparison(options: tuple[str, ...]) -> None:
    meaning = plan(PAIR, {"better": ("label", options)}).meanings["better"]
    assert meaning.kind == "comparison"
    assert [meaning.options[option] for option in options[:2]] == ["response-1", "response-2"]
    assert all(meaning.options[option] == "tie" for option in options[2:])


def test_questions_that_could_be_about_either_response_are_left_out_and_said_to_be() -> None:
    made = plan(
        PAIR, {"quality": "rating", "quality-response-2": "rating", "comment": "text", "spans": "span"}
    )
    assert kinds(made) == {
        "quality": ("unused", None),
        "quality-response-2": ("rating", "response-2"),
        "comment": ("unused", None),
        "spans": ("unused", None),
    }
    assert "quality -> unused (which response it is about cannot be told)" in made.in_words


def test_a_chat_alone_is_judged_by_its_last_turn_and_a_bare_prompt_is_answered() -> None:
    chat: tuple[str, FieldType] = ("conversation", "chat")
    assert kinds(plan([chat], {"quality": "rating"})) == {"quality": ("rating", "conversation")}
    assert kinds(plan(["instruction"], {"answer": "text"})) == {"answer": ("demonstration", None)}


def test_a_config_overrules_every_guess() -> None:
    made = plan(
        ["left text", "right text", "task"],
        {"winner": ("label", ("L", "R", "=")), "stars": "rating"},
        prompt="task",
        responses=["left text", "right text"],
        questions={
            "winner": {"kind": "comparison", "options": {"L": "left text", "R": "right text", "=": "tie"}},
            "stars": {"kind": "rating", "field": "right text"},
        },
    )
    assert kinds(made) == {"winner": ("comparison", None), "stars": ("rating", "right text")}
    assert made.meanings["winner"].options == {"L": "left text", "R": "right text", "=": "tie"}


@pytest.mark.parametrize(
    ("kind", "asked", "said"),
    [
        ("rating", {"kind": "ranking"}, "is of type rating and cannot be a ranking"),
        ("rating", {"kind": "rating"}, "needs in mapping.questions the `field`"),
        (("label", ("x", "y")), {"kind": "comparison"}, "has the options x, y, of which"),
        (("label", ("x",)), {"kind": "comparison", "options": {"x": "nothing"}}, "options for nothing"),
    ],
)
def test_a_mapping_that_cannot_be_is_refused(kind: QuestionType, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plan(PAIR, {"q": kind}, questions={"q": asked})


def test_what_was_removed_from_the_project_is_named() -> None:
    with pytest.raises(ConfigError, match="has no question gone but quality"):
        plan(PAIR, {"quality": "rating"}, questions={"gone": {"kind": "unused"}})
    with pytest.raises(ConfigError, match="has no field gone but prompt, response-1"):
        plan(PAIR, {}, responses=["gone"])
    with pytest.raises(
        ConfigError, match=r"none of which is clearly the prompt; name it under mapping.prompt"
    ):
        plan(["alpha", "beta"], {})
