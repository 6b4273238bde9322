import itertools
import random

from rlhf.sample.enquiries import PROBLEMS, Enquiry
from rlhf.sample.gold import gold_utility
from rlhf.sample.replies import (
    EXCLUSIVE,
    FAILURE_MODES,
    Flaw,
    Wording,
    best_reply,
    draw_wording,
    render_reply,
)

_PROMPT = "I'm Mirato. My lamp came broken. It is order 48213."


def _enquiry(problem: int = 1) -> Enquiry:
    return Enquiry("Mirato", "48213", PROBLEMS[problem].items[0], PROBLEMS[problem])


def _prompt(enquiry: Enquiry) -> str:
    phrase = enquiry.problem.phrases[0].format(item=enquiry.item, other="bench")
    return f"My name is {enquiry.name}. Order {enquiry.order}. {phrase}"


def test_the_best_reply_names_all_facts() -> None:
    reply = best_reply(_PROMPT)
    core = "For your lamp, order 48213, we will send a new one."
    assert reply == f"Hello Mirato, we are sorry. {core} Kind regards, Support"


def test_every_wording_of_every_flawless_reply_has_the_highest_utility() -> None:
    rng = random.Random(0)
    choices = list(itertools.product(range(3), range(3), range(2), range(3), range(2)))
    for problem in range(len(PROBLEMS)):
        enquiry = _enquiry(problem)
        for choice in choices:
            reply = render_reply(enquiry, Wording(*choice), (), rng)
            assert gold_utility(_prompt(enquiry), reply) == 5.0, reply


def test_every_flaw_costs_utility_whatever_the_wording() -> None:
    rng = random.Random(1)
    for flaw in Flaw:
        for problem in range(len(PROBLEMS)):
            enquiry = _enquiry(problem)
            for _ in range(20):
                reply = render_reply(enquiry, draw_wording(rng), {flaw}, rng)
                assert gold_utility(_prompt(enquiry), reply) < 5.0, (flaw, reply)


def test_a_wrong_fact_is_never_better_than_a_missing_one() -> None:
    rng = random.Random(2)
    for missing, wrong in (
        (Flaw.NO_GREETING, Flaw.WRONG_NAME),
        (Flaw.NO_ORDER, Flaw.WRONG_ORDER),
        (Flaw.NO_ITEM, Flaw.WRONG_ITEM),
        (Flaw.NO_RESOLUTION, Flaw.WRONG_RESOLUTION),
        (Flaw.NO_COURTESY, Flaw.WRONG_COURTESY),
    ):
        assert any({missing, wrong} == set(pair) for pair in EXCLUSIVE)
        for problem in range(len(PROBLEMS)):
            enquiry, wording = _enquiry(problem), draw_wording(rng)
            without, with_wrong = (render_reply(enquiry, wording, {f}, rng) for f in (missing, wrong))
            assert gold_utility(_prompt(enquiry), with_wrong) < gold_utility(_prompt(enquiry), without)


def test_wrong_numbers_and_names_are_often_near_misses_and_never_right() -> None:
    rng = random.Random(3)
    wording = Wording(0, 0, 0, 0, 0)
    replies = [render_reply(_enquiry(), wording, {Flaw.WRONG_ORDER}, rng) for _ in range(300)]
    numbers = [reply.split("order ")[1][:5] for reply in replies]
    assert "48213" not in numbers
    off_by_few = sum(sum(a != b for a, b in zip(n, "48213", strict=True)) <= 2 for n in numbers)
    assert 0.3 < off_by_few / len(numbers) < 0.7


def test_failure_modes_never_render_an_empty_text() -> None:
    rng = random.Random(4)
    for mode in FAILURE_MODES:
        for _ in range(100):
            assert render_reply(_enquiry(), draw_wording(rng), {mode, Flaw.NO_GREETING}, rng).strip()
