from rlhf.feedback.pairs import Pair
from rlhf.feedback.quality.contradictions import contradictory


def pairs(*sides: tuple[str, str], prompt: str = "p") -> list[Pair]:
    return [Pair(prompt, chosen, rejected, "r", 1.0, 0.0) for chosen, rejected in sides]


def test_a_circle_is_found_and_what_hangs_on_it_is_not_part_of_it() -> None:
    found = contradictory(pairs(("a", "b"), ("b", "c"), ("c", "a"), ("a", "d"), ("e", "a")))
    assert found.circular == {0, 1, 2}
    assert found.equal == frozenset()


def test_texts_that_differ_in_case_or_spacing_are_the_same_response() -> None:
    found = contradictory(pairs(("Yes, please.", "No."), ("no.", "yes,  please."), ("Maybe", "maybe ")))
    assert found.circular == {0, 1}
    assert found.equal == {2}


def test_prompts_are_apart() -> None:
    found = contradictory([*pairs(("a", "b")), *pairs(("b", "a"), prompt="q")])
    assert (found.circular, found.equal) == (frozenset(), frozenset())


def test_no_comparisons_have_no_contradictions() -> None:
    assert contradictory([]).circular == frozenset()
