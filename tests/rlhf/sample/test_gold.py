import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.errors import DataError
from rlhf.feedback.rows import AnnotationRow, Message
from rlhf.sample import gold
from rlhf.sample.enquiries import Resolution
from rlhf.sample.gold import HIGHEST, LOWEST, gold_reward, gold_score, gold_utility
from rlhf.sample.replies import (
    ACKNOWLEDGEMENTS,
    APOLOGIES,
    CLOSINGS,
    GREETINGS,
    RESOLUTIONS,
    THANKS,
    best_reply,
)

PROMPT = [Message(role="user", content="I'm Mirato. My lamp came broken. It is order 48213.")]
BEST = "Hello Mirato, we are sorry. For your lamp, order 48213, we will send a new one. Kind regards, Support"
_pieces = st.sampled_from(
    [
        *GREETINGS, *APOLOGIES, *THANKS, *CLOSINGS, *ACKNOWLEDGEMENTS,
        *(phrase for phrases in RESOLUTIONS.values() for phrase in phrases),
        "Mirato,", "order 48213", "order 48214", "your lamp", "your chair", ".", "\n", "é", "",
    ]
)  # fmt: skip


def test_the_components_add_up_to_the_highest_utility() -> None:
    assert gold.RESOLUTION + gold.ORDER + gold.NAME + gold.ITEM + gold.COURTESY + gold.CLOSING == HIGHEST


def test_the_best_reply_to_every_generated_prompt_scores_five(rows: list[AnnotationRow]) -> None:
    for row in rows:
        assert gold_utility(row.prompt, best_reply(row.prompt)) == HIGHEST


@given(st.text())
def test_utility_of_any_text_is_finite_and_bounded(text: str) -> None:
    assert LOWEST <= gold_utility(PROMPT, text) <= HIGHEST


@given(st.lists(_pieces, max_size=30).map(" ".join))
def test_utility_of_any_mix_of_known_phrases_is_bounded_and_repeatable(text: str) -> None:
    utility = gold_utility(PROMPT, text)
    assert LOWEST <= utility <= HIGHEST
    assert math.isfinite(utility)
    assert gold_utility(PROMPT, text) == utility


@pytest.mark.parametrize("text", ["", " ", "\n", ".", "...", "?!"])
def test_a_reply_without_words_has_the_lowest_utility(text: str) -> None:
    assert gold_utility(PROMPT, text) == LOWEST


@pytest.mark.parametrize(
    ("reply", "utility"),
    [
        (BEST.replace("Hello Mirato, we", "We"), 4.25),
        (BEST.replace("Mirato", "Mirano"), 4.0),
        (BEST.replace(", order 48213", ""), 4.0),
        (BEST.replace("48213", "48231"), 3.75),
        (BEST.replace("your lamp, ", ""), 4.25),
        (BEST.replace("lamp", "chair"), 3.75),
        (BEST.replace("we will send a new one", "we have your message"), 3.5),
        (BEST.replace("a new one", "a larger one"), 2.75),
        (BEST.replace(" we are sorry.", ""), 4.5),
        (BEST.replace("we are sorry", "thank you for writing"), 4.25),
        (BEST.replace(" Kind regards, Support", ""), 4.5),
        (BEST.replace(", Support", ""), 4.25),
    ],
)
def test_each_component_has_its_published_price(reply: str, utility: float) -> None:
    assert reply != BEST
    assert gold_utility(PROMPT, reply) == pytest.approx(utility)


def test_offering_two_resolutions_is_no_better_than_offering_none() -> None:
    none = BEST.replace("we will send a new one", "we have your message")
    two = BEST.replace("we will send a new one", "we will send a new one and we will refund you in full")
    assert gold_utility(PROMPT, two) <= gold_utility(PROMPT, none)


def test_stuffing_every_resolution_into_one_reply_scores_the_lowest() -> None:
    everything = " and ".join(phrases[0] for phrases in RESOLUTIONS.values())
    assert gold_utility(PROMPT, BEST.replace("we will send a new one", everything)) == LOWEST


def test_bare_keywords_earn_little() -> None:
    assert gold_utility(PROMPT, "Mirato 48213 lamp broken sorry send regards Support") < 2.0


def test_a_form_letter_earns_little() -> None:
    assert gold_utility(PROMPT, "Dear customer, thank you for writing. Kind regards, Support") < 0.5


@pytest.mark.parametrize(
    "reply",
    [
        BEST + " " + BEST,
        BEST + " Kind regards, Support",
        BEST.replace("we are sorry.", "we are sorry. We are sorry. We are sorry."),
        BEST.replace("Hello Mirato,", "Hello Mirato, Hello Mirato,"),
        BEST.replace("order 48213", "order 48213 90517"),
        BEST + " and so on",
        BEST[: len(BEST) // 2],
        BEST.replace("your", "yuor"),
    ],
)
def test_repetition_extra_numbers_rambling_truncation_and_misspelling_cost(reply: str) -> None:
    assert gold_utility(PROMPT, reply) < HIGHEST


def test_each_further_repetition_costs_until_the_published_limit() -> None:
    utilities = [
        gold_utility(PROMPT, BEST.replace("we are", "we are sorry. We are " * n + "we are")) for n in range(4)
    ]
    assert utilities == sorted(utilities, reverse=True)
    assert utilities[0] == HIGHEST
    assert utilities[-1] >= HIGHEST - 2 * gold.MOST_FOR_STYLE


def test_no_phrase_of_one_resolution_is_taken_for_another() -> None:
    for resolution, phrases in RESOLUTIONS.items():
        for phrase in phrases:
            assert [r for r, p in gold._PATTERNS.items() if p.search(phrase)] == [resolution]
    assert set(gold._PATTERNS) == set(Resolution)


def test_the_parts_explain_the_total() -> None:
    score = gold_score(PROMPT, BEST.replace("lamp", "chair"))
    assert score.item == -gold.WRONG_ITEM
    assert (score.name, score.order, score.resolution) == (gold.NAME, gold.ORDER, gold.RESOLUTION)


def test_the_reward_scores_a_batch_of_chats_and_texts_in_order() -> None:
    assert gold_reward([PROMPT, PROMPT[0]["content"]], [BEST, ""]) == [HIGHEST, LOWEST]


def test_prompts_and_completions_of_different_number_are_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        gold_reward([PROMPT], [])


def test_a_prompt_of_another_world_is_an_error_not_a_number() -> None:
    with pytest.raises(DataError):
        gold_reward(["Tell me a joke."], ["No."])
