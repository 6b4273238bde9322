from collections import Counter
from typing import Any

import pytest

from rlhf.errors import ConfigError
from rlhf.feedback.quality.languages import only_in_languages, row_language, sampled_languages
from rlhf.feedback.rows import AnnotationRow, Message, to_table

ENGLISH = "I ordered a lamp last week and it has not arrived yet."
GERMAN = "Ich habe vor drei Wochen eine Lampe bestellt und warte immer noch darauf."


def records(*prompts: str) -> list[dict[str, Any]]:
    rows = (
        AnnotationRow(
            f"{number}", "desk", (Message(role="user", content=prompt),), ("Yes.", "No."), "comparison", 0
        )
        for number, prompt in enumerate(prompts)
    )
    table: list[dict[str, Any]] = to_table(rows).to_pylist()
    return table


def test_rows_in_other_languages_are_left_out_and_those_that_cannot_be_told_are_kept() -> None:
    kept, found = only_in_languages(records(ENGLISH, GERMAN, "Lamp?"), ["en"])
    assert [record["record_id"] for record in kept] == ["0", "2"]
    assert found == {"en": 1, "de": 1, "undecided": 1}


def test_what_an_annotator_wrote_counts_as_much_as_the_prompt() -> None:
    row = AnnotationRow("1", "desk", (Message(role="user", content="Lamp?"),), (), "demonstration", GERMAN)
    [record] = to_table([row]).to_pylist()
    assert row_language(record) == "de"


def test_the_sample_does_not_depend_on_the_order_of_rows() -> None:
    rows = records(*[ENGLISH] * 3, *[GERMAN] * 3, "Lamp?")
    assert sampled_languages(rows, 4) == sampled_languages(rows[::-1], 4)
    assert sampled_languages(rows, 99) == Counter({"en": 3, "de": 3, "undecided": 1})


def test_a_language_that_cannot_be_recognised_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"datasets\.languages: xx cannot be recognised"):
        only_in_languages(records(ENGLISH), ["en", "xx"])
