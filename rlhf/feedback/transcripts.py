"""Comparisons whose sides are whole conversations: hh-rlhf's ``\\n\\nHuman: … \\n\\nAssistant: …`` strings
and lists of messages. What both sides share becomes the prompt, the rest the two responses."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf.feedback.records import BadRecordError, messages_of, record_id, text_of, user_prompt
from rlhf.feedback.rows import AnnotationRow, Message

_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_ROLE = {"Human": "user", "Assistant": "assistant"}
_SPEAKER = {"user": "Human", "assistant": "Assistant"}


def is_transcript(value: Any) -> bool:
    """Whether a value is a string of Human and Assistant turns that begins with one."""
    return isinstance(value, str) and _TURN.match(value.lstrip("\n ")) is not None


def transcript_turns(transcript: str) -> list[Message]:
    """The turns of a ``\\n\\nHuman: … \\n\\nAssistant: …`` transcript, contents stripped."""
    pieces = _TURN.split(transcript.lstrip("\n "))
    if pieces[0].strip():
        raise BadRecordError("transcript does not begin with a Human or Assistant turn")
    return [
        Message(role=_ROLE[speaker], content=text.strip())
        for speaker, text in zip(pieces[1::2], pieces[2::2], strict=True)
    ]


def split_conversations(
    chosen: Sequence[Message], rejected: Sequence[Message]
) -> tuple[tuple[Message, ...], str, str]:
    """Prompt and the two responses of two conversations with a common beginning.

    The prompt is the longest run of common whole turns that ends with the human and is answered by the
    assistant on both sides: usually all but the last turn. Where two conversations part earlier, everything
    after it is the response, further turns included in hh-rlhf's notation.

    Raises:
        BadRecordError: equal conversations, or no common human turn that both sides answer.
    """
    if list(chosen) == list(rejected):
        raise BadRecordError("both sides are equal")
    split = 0
    for at, (left, right) in enumerate(zip(chosen, rejected, strict=False)):
        if at and chosen[at - 1]["role"] == "user" and left["role"] == right["role"] == "assistant":
            split = at
        if left != right:
            break
    if not split:
        raise BadRecordError("the two conversations share no human turn that both answer")
    return tuple(chosen[:split]), _rest(chosen[split:]), _rest(rejected[split:])


def _rest(turns: Sequence[Message]) -> str:
    first, *others = turns
    later = (f"\n\n{_SPEAKER.get(turn['role'], turn['role'])}: {turn['content']}" for turn in others)
    return first["content"] + "".join(later)


def chosen_rejected(values: Mapping[str, Any], source: str) -> Iterator[AnnotationRow]:
    """``chosen``/``rejected`` without a prompt column."""
    chosen, rejected = (_turns(values.get(side), side) for side in ("chosen", "rejected"))
    prompt, better, worse = split_conversations(chosen, rejected)
    yield _comparison(values, source, prompt, better, worse)


def prompt_chosen_rejected(values: Mapping[str, Any], source: str) -> Iterator[AnnotationRow]:
    """``prompt``/``chosen``/``rejected``, each text or messages; sides may repeat the prompt."""
    if all(_is_conversation(values.get(side), side) for side in ("chosen", "rejected")):
        yield from chosen_rejected(values, source)
        return
    better, worse = (completion_of(values, side) for side in ("chosen", "rejected"))
    yield _comparison(values, source, prompt_of(values), better, worse)


def prompt_of(values: Mapping[str, Any], column: str = "prompt") -> tuple[Message, ...]:
    """A prompt column as messages: a list of messages, a transcript, or plain text as one user turn."""
    value = values.get(column)
    if value is not None and not isinstance(value, str):
        return tuple(messages_of(value, column))
    if is_transcript(value):
        turns = transcript_turns(str(value))
        # "\n\nAssistant:" at the end only asks for the reply.
        return tuple(turns[:-1] if turns[-1] == Message(role="assistant", content="") else turns)
    return user_prompt(text_of(values, column))


def completion_of(values: Mapping[str, Any], column: str) -> str:
    """A completion column as text: plain text, or a list of one assistant message."""
    value = values.get(column)
    if value is None or isinstance(value, str):
        return text_of(values, column)
    turns = messages_of(value, column)
    if turns[0]["role"] != "assistant":
        raise BadRecordError(f"column '{column}' does not begin with an assistant turn")
    return _rest(turns)


def _is_conversation(value: Any, column: str) -> bool:
    if isinstance(value, str):
        return is_transcript(value) and "\n\nAssistant:" in value
    return messages_of(value, column)[0]["role"] != "assistant"


def _turns(value: Any, column: str) -> list[Message]:
    if isinstance(value, str):
        return transcript_turns(value)
    return messages_of(value, column)


def _comparison(
    values: Mapping[str, Any], source: str, prompt: tuple[Message, ...], better: str, worse: str
) -> AnnotationRow:
    return AnnotationRow(record_id(values), source, prompt, (better, worse), "comparison", 0)
