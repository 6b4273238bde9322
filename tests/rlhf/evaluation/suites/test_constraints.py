"""Every kind of instruction by an answer that keeps it and one that does not."""

import pytest

from rlhf.errors import DataError
from rlhf.evaluation.suites.constraints import (
    INSTRUCTIONS,
    check_instruction,
    followed,
    loosely_followed,
    sentences_of,
    words_of,
)
from rlhf.evaluation.suites.instruction_prompts import PROMPTS

CASES = [
    ("keywords:existence", {"keywords": ["Refund", "day"]}, "One day your refund comes", "refunds some day"),
    (
        "keywords:frequency",
        {"keyword": "tea", "frequency": 2, "relation": "at least"},
        "Tea, and more tea.",
        "Tea and steam.",
    ),
    ("keywords:forbidden_words", {"forbidden_words": ["sorry"]}, "Sorrynot", "I am Sorry."),
    (
        "keywords:letter_frequency",
        {"letter": "z", "let_frequency": 2, "let_relation": "less than"},
        "Zebra",
        "Zigzag",
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "at least"},
        "It rains. Take a coat!",
        "It rains, e.g. in Rome",
    ),
    (
        "length_constraints:number_words",
        {"num_words": 3, "relation": "less than"},
        "don't panic",
        "one two three",
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", "a\n***\n\n***\nb"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "later"},
        "Now.\n\n“Later” we go.",
        "Later.\n\nNow.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name], [street]", "[name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\np. s. call me", "Bye, ps call"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a\n**bold**\n---"),
    ("detectable_format:constrained_response", {}, "My answer is no.", "No."),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        "*one* and **two**",
        "*one* and ** **",
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        "Section 1\na\nSection 2\nb",
        "Section 1\na",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{a: 1}"),
    ("detectable_format:title", {}, "<<Tea>> is good", "<< >> no"),
    ("combination:two_responses", {}, "one ****** two", "same ****** same"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it."}, "say it. It.", "It. Say it."),
    ("startend:end_checker", {"end_phrase": "Any question?"}, 'Well. Any question?"', "Any question? No."),
    ("startend:quotation", {}, '"All of it"', '"Some" of it'),
    ("change_case:english_capital", {}, "WET FLOOR 2", "WET Floor"),
    ("change_case:english_lowercase", {}, "the sea", "The sea"),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        "BIG SALE now",
        "Big SALE now",
    ),
    ("punctuation:no_comma", {}, "red and blue", "red, blue"),
]


@pytest.mark.parametrize(("name", "arguments", "kept", "broken"), CASES, ids=[case[0] for case in CASES])
def test_an_instruction_is_kept_or_broken(
    name: str, arguments: dict[str, object], kept: str, broken: str
) -> None:
    assert followed(name, kept, arguments)
    assert not followed(name, broken, arguments)
    assert not followed(name, " ", arguments)


def test_there_is_a_case_for_every_kind() -> None:
    assert {case[0] for case in CASES} | {"language:response_language"} == set(INSTRUCTIONS)


def test_the_language_of_an_answer_is_recognised() -> None:
    german = "Guten Morgen, ich hätte gerne zwei Brötchen und einen Kaffee."
    assert followed("language:response_language", german, {"language": "de"})
    assert not followed("language:response_language", german, {"language": "en"})
    assert followed("language:response_language", "12:30", {"language": "en"})


def test_loose_forgives_an_introduction_a_closing_line_and_asterisks() -> None:
    asked = ("startend:end_checker", {"end_phrase": "the end."})
    answer = "Sure, here it is:\nA **story**.\nThe **end**.\nAnything else?"
    assert not followed(asked[0], answer, asked[1])
    assert loosely_followed(asked[0], answer, asked[1])
    assert not loosely_followed("punctuation:no_comma", "a\nb, c\nd", {})


def test_arguments_that_are_null_count_as_absent() -> None:
    assert followed("punctuation:no_comma", "fine", {"num_words": None})


def test_unknown_instructions_and_other_arguments_are_refused() -> None:
    with pytest.raises(DataError, match="no instruction 'length:words'"):
        check_instruction("length:words", {})
    with pytest.raises(DataError, match="takes the arguments num_words, relation, not words"):
        check_instruction("length_constraints:number_words", {"words": 3})
    with pytest.raises(DataError, match="'at least' or 'less than'"):
        followed("length_constraints:number_words", "a", {"num_words": 3, "relation": "around"})


def test_words_and_sentences_are_counted_as_people_would() -> None:
    assert words_of("Don't panic - it's 2 o'clock.") == ["Don't", "panic", "it's", "2", "o'clock"]
    assert len(sentences_of('He said "Go!" and left. Then (at 3.30) it rained... Why?')) == 3


def test_every_built_in_prompt_asks_for_what_can_be_verified() -> None:
    kinds = set()
    for _, asked in PROMPTS:
        for name, arguments in asked:
            check_instruction(name, arguments)
            kinds.add(name)
    assert kinds == set(INSTRUCTIONS) - {"language:response_language"}
    assert len({text for text, _ in PROMPTS}) == len(PROMPTS)
