"""Instructions that a program can verify, after IFEval (Zhou et al. 2023, arXiv:2311.07911): one pure
function for each of its 25 kinds, under its own name and with its own arguments.

Where the paper's code splits sentences with a trained tokenizer, a rule does it here, and words are runs of
letters, digits and apostrophes; counts may differ by one where a text has abbreviations.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

import regex

from rlhf.errors import DataError
from rlhf.language import language_of

Relation = Literal["at least", "less than"]
_QUOTES = '"“”«»„'
_OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def followed(name: str, response: str, arguments: Mapping[str, Any]) -> bool:
    """Whether a response keeps one instruction; an empty one keeps none.

    Args:
        name: IFEval's id, such as ``length_constraints:number_words``.
        arguments: its keyword arguments; those that are null count as absent, as the dataset has them.

    Raises:
        DataError: there is no such instruction, or it takes other arguments.
    """
    given = {key: value for key, value in arguments.items() if value is not None}
    check_instruction(name, given)
    return bool(response.strip()) and INSTRUCTIONS[name](response, **given)


def check_instruction(name: str, arguments: Mapping[str, Any]) -> None:
    """Refuse an instruction that cannot be verified.

    Raises:
        DataError: there is no such instruction, or it takes other arguments.
    """
    if name not in INSTRUCTIONS:
        raise DataError(
            f"There is no instruction {name!r}; the known ones are {', '.join(sorted(INSTRUCTIONS))}."
        )
    code = INSTRUCTIONS[name].__code__
    known = set(code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount])
    given = {key for key, value in arguments.items() if value is not None}
    if given != known:
        wanted = ", ".join(sorted(known)) or "none"
        raise DataError(
            f"The instruction {name!r} takes the arguments {wanted}, not "
            f"{', '.join(sorted(given)) or 'none'}; correct kwargs."
        )


def loosely_followed(name: str, response: str, arguments: Mapping[str, Any]) -> bool:
    """Whether the response keeps the instruction once an introduction, a closing line or Markdown's asterisks
    are taken away (section 2.2 of the paper): any of the eight variants counts."""
    return any(followed(name, variant, arguments) for variant in loose_variants(response))


def loose_variants(response: str) -> list[str]:
    """The response; without its first line, its last, and both; and all four without asterisks."""
    lines = response.split("\n")
    cut = [response, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*cut, *(text.replace("*", "") for text in cut)]


def words_of(text: str) -> list[str]:
    """Words as IFEval counts them: runs of word characters; an apostrophe does not part a word."""
    return regex.findall(r"\w+(?:['’]\w+)*", text)


def sentences_of(text: str) -> list[str]:
    """Sentences: up to ``.``, ``!`` or ``?`` before a space and no small letter, or up to a blank line."""
    parts = regex.split(r"(?<=[.!?…][\"'”’)\]]*)\s+(?![\p{Ll}])|\n\s*\n", text.strip())
    return [part for part in parts if part and regex.search(r"\w", part)]


def _compare(count: int, relation: Relation, bound: int) -> bool:
    if relation == "at least":
        return count >= bound
    if relation == "less than":
        return count < bound
    raise DataError(f"A relation is 'at least' or 'less than', not {relation!r}; correct kwargs.")


def _occurrences(word: str, text: str) -> int:
    return len(regex.findall(rf"(?<!\w){regex.escape(word)}(?!\w)", text, flags=regex.IGNORECASE))


def keywords_existence(response: str, keywords: list[str]) -> bool:
    """All keywords stand in the response."""
    return all(_occurrences(word, response) for word in keywords)


def keywords_frequency(response: str, keyword: str, frequency: int, relation: Relation) -> bool:
    """A keyword stands in it at least, or less than, so many times."""
    return _compare(_occurrences(keyword, response), relation, frequency)


def forbidden_words(response: str, forbidden_words: list[str]) -> bool:
    """None of the words stands in the response."""
    return not any(_occurrences(word, response) for word in forbidden_words)


def letter_frequency(response: str, letter: str, let_frequency: int, let_relation: Relation) -> bool:
    """A letter (of either case) stands in it at least, or less than, so many times."""
    return _compare(response.lower().count(letter.lower()), let_relation, let_frequency)


def response_language(response: str, language: str) -> bool:
    """The response is in a language, by its ISO 639-1 code; as in IFEval, a text that does not show its
    language is let through."""
    return language_of(response) in (language, None)


def number_sentences(response: str, num_sentences: int, relation: Relation) -> bool:
    """It has at least, or less than, so many sentences."""
    return _compare(len(sentences_of(response)), relation, num_sentences)


def number_words(response: str, num_words: int, relation: Relation) -> bool:
    """It has at least, or less than, so many words."""
    return _compare(len(words_of(response)), relation, num_words)


def number_paragraphs(response: str, num_paragraphs: int) -> bool:
    """It has exactly so many paragraphs, parted by ``***``; an empty one only at the ends."""
    parts = regex.split(r"\s?\*\*\*\s?", response)
    inner = parts[1:-1]
    filled = [part for part in parts if part.strip()]
    return all(part.strip() for part in inner) and len(filled) == num_paragraphs


def nth_paragraph_first_word(response: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """It has exactly so many paragraphs, parted by blank lines, and one of them begins with a word."""
    filled = [part.strip() for part in regex.split(r"\n\n", response) if part.strip()]
    if len(filled) != num_paragraphs or not 1 <= nth_paragraph <= len(filled):
        return False
    words = words_of(filled[nth_paragraph - 1])
    return bool(words) and words[0].lower() == first_word.lower()


def number_placeholders(response: str, num_placeholders: int) -> bool:
    """It has at least so many placeholders in square brackets."""
    return len(regex.findall(r"\[[^\[\]]*\]", response)) >= num_placeholders


def postscript(response: str, postscript_marker: str) -> bool:
    """A line begins a postscript with the marker, such as ``P.S.``."""
    letters = r"\s*".join(regex.escape(c) for c in postscript_marker if not c.isspace())
    return regex.search(rf"(?im)^\s*{letters}", response) is not None


def number_bullet_lists(response: str, num_bullets: int) -> bool:
    """It has exactly so many bullets, lines that begin with ``*`` or ``-``."""
    return len(regex.findall(r"(?m)^\s*(?:\*(?!\*)|-(?!-))[^\S\n]*\S", response)) == num_bullets


def constrained_response(response: str) -> bool:
    """It contains one of IFEval's three ready answers."""
    return any(option in response for option in _OPTIONS)


def number_highlighted_sections(response: str, num_highlights: int) -> bool:
    """It has at least so many parts between asterisks, ``*like this*`` or ``**this**``."""
    found = regex.findall(r"\*\*[^\n*]+\*\*|\*[^\n*]+\*", response)
    return sum(bool(part.strip("*").strip()) for part in found) >= num_highlights


def multiple_sections(response: str, section_spliter: str, num_sections: int) -> bool:
    """It has at least so many sections, each begun by the word and a number, such as ``Section 1``."""
    return len(regex.findall(rf"{regex.escape(section_spliter)}\s?\d+", response)) >= num_sections


def json_format(response: str) -> bool:
    """It is JSON, with or without a Markdown fence around it."""
    text = regex.sub(r"^```(?:json)?\s*|\s*```$", "", response.strip(), flags=regex.IGNORECASE)
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def title(response: str) -> bool:
    """It has a title in double angle brackets, ``<<like this>>``."""
    return any(found.strip() for found in regex.findall(r"<<([^\n]+?)>>", response))


def two_responses(response: str) -> bool:
    """It is two different responses, parted by six asterisks."""
    parts = response.split("******")
    if any(not part.strip() for part in parts[1:-1]):
        return False
    filled = [part.strip() for part in parts if part.strip()]
    return len(filled) == 2 and filled[0] != filled[1]


def repeat_prompt(response: str, prompt_to_repeat: str) -> bool:
    """It begins with the prompt, word for word."""
    return response.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(response: str, end_phrase: str) -> bool:
    """It ends with the phrase."""
    return response.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def quotation(response: str) -> bool:
    """It stands in double quotation marks as a whole."""
    text = response.strip()
    return len(text) > 1 and text[0] in _QUOTES and text[-1] in _QUOTES


def english_capital(response: str) -> bool:
    """It has letters, all of them capitals. (IFEval also asks whether the text is English, which detectors
    of capitals often deny.)"""
    return response.isupper()


def english_lowercase(response: str) -> bool:
    """It has letters, none of them a capital."""
    return response.islower()


def capital_word_frequency(response: str, capital_frequency: int, capital_relation: Relation) -> bool:
    """At least, or less than, so many words are in capitals."""
    capitals = sum(word.isupper() for word in words_of(response))
    return _compare(capitals, capital_relation, capital_frequency)


def no_comma(response: str) -> bool:
    """It has no comma."""
    return "," not in response


INSTRUCTIONS: Mapping[str, Callable[..., bool]] = {
    "keywords:existence": keywords_existence,
    "keywords:frequency": keywords_frequency,
    "keywords:forbidden_words": forbidden_words,
    "keywords:letter_frequency": letter_frequency,
    "language:response_language": response_language,
    "length_constraints:number_sentences": number_sentences,
    "length_constraints:number_paragraphs": number_paragraphs,
    "length_constraints:number_words": number_words,
    "length_constraints:nth_paragraph_first_word": nth_paragraph_first_word,
    "detectable_content:number_placeholders": number_placeholders,
    "detectable_content:postscript": postscript,
    "detectable_format:number_bullet_lists": number_bullet_lists,
    "detectable_format:constrained_response": constrained_response,
    "detectable_format:number_highlighted_sections": number_highlighted_sections,
    "detectable_format:multiple_sections": multiple_sections,
    "detectable_format:json_format": json_format,
    "detectable_format:title": title,
    "combination:two_responses": two_responses,
    "combination:repeat_prompt": repeat_prompt,
    "startend:end_checker": end_checker,
    "startend:quotation": quotation,
    "change_case:english_capital": english_capital,
    "change_case:english_lowercase": english_lowercase,
    "change_case:capital_word_frequency": capital_word_frequency,
    "punctuation:no_comma": no_comma,
}
"""Verifiers by IFEval's id."""
