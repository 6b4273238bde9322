import random

import pytest

from rlhf.errors import DataError
from rlhf.feedback.rows import AnnotationRow, Message
from rlhf.sample.enquiries import (
    PROBLEMS,
    Enquiry,
    Resolution,
    identities,
    name_of,
    parse_enquiry,
    render_enquiry,
    syllables_of,
)


def _cases() -> list[tuple[Enquiry, str]]:
    rng = random.Random(3)
    customers = iter(identities(3))
    cases = []
    for problem in PROBLEMS:
        for _ in range(60):
            name, order = next(customers)
            enquiry = Enquiry(name, order, rng.choice(problem.items), problem)
            cases.append((enquiry, render_enquiry(enquiry, rng)[0]["content"]))
    return cases


def test_there_are_at_least_eight_intents_with_five_phrases_each() -> None:
    assert len({problem.intent for problem in PROBLEMS}) >= 8
    assert all(len(set(problem.phrases)) >= 5 for problem in PROBLEMS)
    assert {problem.resolution for problem in PROBLEMS} == set(Resolution)


def test_the_facts_of_every_problem_are_read_back_from_the_text_alone() -> None:
    for enquiry, text in _cases():
        assert parse_enquiry(text) == enquiry
        assert parse_enquiry([Message(role="user", content=text)]) == enquiry


def test_every_phrase_reads_as_its_own_problem() -> None:
    for problem in PROBLEMS:
        for phrase in problem.phrases:
            text = f"I'm Mirato. Order 48213. {phrase.format(item=problem.items[0], other='clock')}"
            assert parse_enquiry(text).problem is problem


def test_the_facts_come_in_every_order() -> None:
    orders = set()
    for enquiry, text in _cases():
        places = {
            "name": text.index(enquiry.name),
            "order": text.index(enquiry.order),
            "item": text.index(enquiry.item),
        }
        orders.add(tuple(sorted(places, key=places.__getitem__)))
    assert len(orders) == 6


def test_every_generated_prompt_can_be_read(rows: list[AnnotationRow]) -> None:
    for row in rows:
        enquiry = parse_enquiry(row.prompt)
        assert enquiry.name in row.prompt[0]["content"]
        assert enquiry.item in enquiry.problem.items


def test_names_and_order_numbers_are_never_used_for_two_prompts(rows: list[AnnotationRow]) -> None:
    prompts = {row.prompt[0]["content"] for row in rows}
    enquiries = [parse_enquiry(prompt) for prompt in prompts]
    assert len({e.name for e in enquiries}) == len(prompts)
    assert len({e.order for e in enquiries}) == len(prompts)


def test_order_numbers_have_five_different_digits() -> None:
    assert all(len(set(order)) == len(order) == 5 and order[0] != "0" for _, order in identities(0))


def test_a_name_is_three_syllables_and_numbers_name_uniquely() -> None:
    names = [name_of(number) for number in range(0, 125_000, 7)]
    assert len(set(names)) == len(names)
    assert all(len(syllables_of(name)) == 3 and name.istitle() for name in names)


def test_another_seed_gives_other_customers() -> None:
    assert identities(1)[:5] != identities(2)[:5]


def test_a_prompt_of_another_world_is_refused_with_a_remedy() -> None:
    with pytest.raises(DataError, match="sample source"):
        parse_enquiry([Message(role="user", content="What is the capital of France?")])
