import pytest

from rlhf.feedback.records import BadRecordError
from rlhf.feedback.rows import Message
from rlhf.feedback.transcripts import chosen_rejected, prompt_chosen_rejected, prompt_of, transcript_turns


def human(text: str) -> Message:
    return Message(role="user", content=text)


def assistant(text: str) -> Message:
    return Message(role="assistant", content=text)


def test_the_last_turn_differs_in_most_pairs() -> None:
    shared = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: A joke\n\nplease"
    (row,) = chosen_rejected(
        {"chosen": f"{shared}\n\nAssistant: Knock knock", "rejected": f"{shared}\n\nAssistant: No."}, "hh"
    )
    assert row.prompt == (human("Hi"), assistant("Hello."), human("A joke\n\nplease"))
    assert (row.responses, row.value) == (("Knock knock", "No."), 0)


def test_pairs_that_part_earlier_keep_the_common_turns_as_prompt_and_the_rest_as_text() -> None:
    (row,) = chosen_rejected(
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Thanks\n\nAssistant: Bye",
            "rejected": "\n\nHuman: Hi\n\nAssistant: What?\n\nHuman: Oh\n\nAssistant: Go",
        },
        "hh",
    )
    assert row.prompt == (human("Hi"),)
    assert row.responses == (
        "Hello.\n\nHuman: Thanks\n\nAssistant: Bye",
        "What?\n\nHuman: Oh\n\nAssistant: Go",
    )


def test_a_side_that_goes_on_longer_is_a_longer_response() -> None:
    (row,) = chosen_rejected(
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello.",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Eh\n\nAssistant: Bye",
        },
        "hh",
    )
    assert row.prompt == (human("Hi"),)
    assert row.responses == ("Hello.", "Hello.\n\nHuman: Eh\n\nAssistant: Bye")


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a\n\nAssistant: b", "equal"),
        ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: c\n\nAssistant: b", "share no human turn"),
        ("\n\nHuman: a\n\nHuman: b", "\n\nHuman: a\n\nHuman: c", "share no human turn"),
        ("no turns", "\n\nHuman: a\n\nAssistant: b", "does not begin"),
    ],
)
def test_conversations_without_common_ground_are_refused(chosen: str, rejected: str, reason: str) -> None:
    with pytest.raises(BadRecordError, match=reason):
        list(chosen_rejected({"chosen": chosen, "rejected": rejected}, "hh"))


def test_chosen_and_rejected_may_be_lists_that_repeat_the_prompt() -> None:
    start = [{"role": "user", "content": "Hi"}]
    (row,) = prompt_chosen_rejected(
        {
            "prompt": "Hi",
            "chosen": [*start, {"role": "assistant", "content": "Hello"}],
            "rejected": [*start, {"role": "assistant", "content": "No"}],
        },
        "ultra",
    )
    assert (row.prompt, row.responses) == ((human("Hi"),), ("Hello", "No"))


def test_chosen_and_rejected_may_be_texts_or_single_messages() -> None:
    as_text = {"prompt": "Hi", "chosen": "Hello", "rejected": "No"}
    as_messages = {
        "prompt": [{"role": "user", "content": "Hi"}],
        "chosen": [{"role": "assistant", "content": "Hello"}],
        "rejected": [{"role": "assistant", "content": "No"}],
    }
    (one,), (other,) = (list(prompt_chosen_rejected(values, "s")) for values in (as_text, as_messages))
    assert (one.prompt, one.responses) == (other.prompt, other.responses) == ((human("Hi"),), ("Hello", "No"))


def test_a_prompt_may_be_a_transcript_that_asks_for_the_reply() -> None:
    text = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Joke\n\nAssistant:"
    assert prompt_of({"prompt": text}) == (human("Hi"), assistant("Yes?"), human("Joke"))


def test_the_words_human_and_assistant_inside_a_line_start_no_turn() -> None:
    assert transcript_turns("\n\nHuman: Who is Human: you?\n\nAssistant: Me") == [
        human("Who is Human: you?"),
        assistant("Me"),
    ]
