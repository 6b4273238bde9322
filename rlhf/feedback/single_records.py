"""Layouts in which a record stands alone: instructions, questions, chats, labelled or rewarded replies, bare
prompts and text."""

import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf.feedback.records import BadRecordError, messages_of, parsed_json, record_id, text_of, user_prompt
from rlhf.feedback.rows import AnnotationRow, Message, canonical_json
from rlhf.feedback.transcripts import completion_of, prompt_of

REWARD_COLUMNS = ("reward", "score")
PROMPT_COLUMNS = ("prompt", "instruction", "question")

_ANSWER_WORDS = ("chosen", "rejected", "completion", "response", "reply", "answer", "output", "generation")
_VERDICT_WORDS = frozenset(
    ("better", "worse", "best", "worst", "winner", "loser", "good", "bad", "preferred", "label", "text")
)
_LETTERED = re.compile(r"(?:option|candidate|text)[a-z]?")
_METADATA_WORDS = frozenset(
    (
        *("id", "ids", "idx", "index", "source", "dataset", "split", "url", "license", "title", "name"),
        *("category", "type", "topic", "topics", "tag", "tags", "lang", "language", "domain", "subject"),
        *("intent", "task", "difficulty", "author", "annotator", "date", "time", "meta", "metadata"),
        *("note", "notes", "comment", "description"),
    )
)
_SHORT_CHARS = 100
_SENTENCE_WORDS = 4


def prompt_completion(values: Mapping[str, Any], source: str) -> Iterator[AnnotationRow]:
    """``prompt``/``completion``, each text or messages."""
    yield _demonstration(values, source, prompt_of(values), completion_of(values, "completion"))


def instruction_context_response(values: Mapping[str, Any], source: str) -> Iterator[AnnotationRow]:
    """dolly: ``instruction``, ``context`` (may be absent) and ``response``."""
    prompt = user_prompt(text_of(values, "instruction"), text_of(values, "context", optional=True))
    yield _demonstration(values, source, prompt, text_of(values, "response"))


def instruction_input_output(values: Mapping[str, Any], source: str) -> Iterator[AnnotationRow]:
    """Self-instruct and Alpaca: ``instruction``, ``input``, ``output``, or a list of such ``instances``."""
    instances = parsed_json(values, "instances") if "instances" in values else [values]
    if not isinstance(instances, list) or not all(isinstance(instance, Mapping) for instance in instances):
        raise BadRecordError("column 'instances' is not a list of objects")
    instruction = text_of(values, "instruction")
    for instance in instances:
        prompt = user_prompt(instruction, text_of(instance, "input", optional=True))
        yield _demonstration(values, source, prompt, text_of(instance, "output"))


def question_answer(values: Mapping[str, Any], source: str) -> Iterator[AnnotationRow]:
    """``question``/``answer``, such as gsm8k."""
    yield _demonstration(values, source, user_prompt(text_of(values, "question")), text_of(values, "answer"))


def messages(values: Mapping[str, Any], source: str) -> Iterator[AnnotationRow]:
    """A chat in ``messages`` (or ShareGPT's ``conversations``); its last assistant turn is the
    demonstration."""
    column = "messages" if "messages" in values else "conversations"
    turns = messages_of(values.get(column), column)
    last = max((at for at, turn in enumerate(turns) if turn["role"] == "assistant"), default=0)
    if not last:
        raise BadRecordError("chat without an assistant turn that answers something")
    yield _demonstration(values, source, tuple(turns[:last]), turns[last]["content"])


def better_poorer(values: Mapping[str, Any], source: str) -> Iterator[AnnotationRow]:
    """``better_response``/``poorer_response`` to a ``prompt``, ``instruction`` or ``question``."""
    yield _preferred(values, source, "better_response", "poorer_response")


def argilla_dolly_falcon(values: Mapping[str, Any], source: str) -> Iterator[AnnotationRow]:
    """Argilla's guide: the written ``original_response`` is taken to be preferred to the generated
    ``response-1``."""
    yield _preferred(values, source, "original_response", "response-1")


def _preferred(values: Mapping[str, Any], source: str, better: str, worse: str) -> AnnotationRow:
    column = next((column for column in PROMPT_COLUMNS if column in values), PROMPT_COLUMNS[0])
    responses = (completion_of(values, better), completion_of(values, worse))
    return AnnotationRow(
        record_id(values),
        source,
        prompt_of(values, column),
        responses,
        "comparison",
        0,
        annotator=_annotator(values),
    )


def prompt_completion_label(values: Mapping[str, Any], source: str) -> Iterator[AnnotationRow]:
    """``prompt``/``completion``/``label``: unpaired judgements, as KTO takes them."""
    label = values.get("label")
    if isinstance(label, int | float) and not isinstance(label, bool):
        label = str(label)
    responses = (completion_of(values, "completion"),)
    yield AnnotationRow(
        record_id(values), source, prompt_of(values), responses, "label", label, annotator=_annotator(values)
    )


def prompt_completion_reward(values: Mapping[str, Any], source: str) -> Iterator[AnnotationRow]:
    """``prompt``, ``completion`` or ``response``, and ``reward`` or ``score``: a number for one answer."""
    column = "completion" if "completion" in values else "response"
    yield _rewarded(values, source, prompt_of(values), completion_of(values, column))


def sample_reward(values: Mapping[str, Any], source: str) -> Iterator[AnnotationRow]:
    """``sample`` or ``text``, and ``reward`` or ``score``, as trlX took them: a sample is a whole text, or a
    list of prompt and output."""
    sample = values.get("sample", values.get("text"))
    if isinstance(sample, str):
        yield _rewarded(values, source, (), sample.strip())
    elif isinstance(sample, list | tuple) and len(sample) == 2 and all(isinstance(s, str) for s in sample):
        yield _rewarded(values, source, user_prompt(sample[0].strip()), sample[1].strip())
    else:
        raise BadRecordError("a sample is neither text nor a list of prompt and output")


def is_rewarded(first_rows: list[Mapping[str, Any]]) -> bool:
    """Whether what stands under ``reward`` or ``score`` is a number wherever it is given."""
    found = [_reward_of(row) for row in first_rows]
    return any(isinstance(value, float) for value in found) and "" not in found


def _rewarded(
    values: Mapping[str, Any], source: str, prompt: tuple[Message, ...], completion: str
) -> AnnotationRow:
    reward = _reward_of(values)
    if not isinstance(reward, float):
        raise BadRecordError("the reward is missing or not a number")
    if not prompt and not completion:
        raise BadRecordError("empty text")
    return AnnotationRow(
        record_id(values), source, prompt, (completion,), "rating", reward, "reward", _annotator(values)
    )


def _reward_of(values: Mapping[str, Any]) -> float | str | None:
    """The reward as a number, None where there is none, and empty text for what is no finite number."""
    value = next((values[column] for column in REWARD_COLUMNS if values.get(column) is not None), None)
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return ""
    return number if math.isfinite(number) and not isinstance(value, bool) else ""


def taskmaster_reward(values: Mapping[str, Any], source: str) -> Iterator[AnnotationRow]:
    """Taskmaster-4: ``context`` (JSON turns), ``generation`` (one JSON turn) and ``reward`` (1.0 good, 0.0
    bad)."""
    turns = parsed_json(values, "context")
    reward = values.get("reward")
    if not isinstance(turns, list):
        raise BadRecordError("column 'context' is not a list of turns")
    if not turns:
        raise BadRecordError("empty prompt")
    try:
        good = {0.0: False, 1.0: True}[float(reward)]  # type: ignore[arg-type]  # None is caught below
    except (KeyError, TypeError, ValueError) as error:
        raise BadRecordError("column 'reward' is neither 0 nor 1") from error
    prompt = tuple(_taskmaster_turn(turn) for turn in turns)
    reply = _taskmaster_turn(parsed_json(values, "generation"))
    yield AnnotationRow(record_id(values), source, prompt, (reply["content"],), "label", good)


def _taskmaster_turn(turn: Any) -> Message:
    if not isinstance(turn, Mapping):
        raise BadRecordError("a turn is not an object")
    if "text" in turn:
        return messages_of([turn], "context")[0]
    # A call is the assistant's doing; what the service answered is neither side's, so it stands as system
    # text.
    role = {"agent": "assistant", "api": "system"}.get(str(turn.get("role")))
    content = turn.get("api", turn.get("response"))
    if role is None or content is None:
        raise BadRecordError("a turn has neither text nor a call nor its answer")
    return Message(role=role, content=canonical_json(content))


def mt_bench(values: Mapping[str, Any], source: str) -> Iterator[AnnotationRow]:
    """``turns``: the first is a prompt; later ones follow on an answer that does not exist yet."""
    turns = parsed_json(values, "turns")
    if not isinstance(turns, list) or not turns or not isinstance(turns[0], str):
        raise BadRecordError("column 'turns' is not a list of texts")
    yield _unanswered(record_id(values, "question_id"), source, user_prompt(turns[0].strip()))


def prompts(values: Mapping[str, Any], source: str) -> Iterator[AnnotationRow]:
    """``prompt`` alone: a prompt for rollouts that nobody has answered."""
    yield _unanswered(record_id(values), source, prompt_of(values))


def text(values: Mapping[str, Any], source: str) -> Iterator[AnnotationRow]:
    """``text`` alone: plain text for language modelling."""
    yield _demonstration(values, source, (), text_of(values, "text"))


def is_prompt_only(first_rows: list[Mapping[str, Any]]) -> bool:
    """Whether nothing beside ``prompt`` looks like feedback."""
    return not looks_like_feedback(first_rows)


def looks_like_feedback(first_rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Columns beside ``prompt`` that look like answers or judgements, by their names, or by sentences under a
    name that is no metadata's: an unknown column must not turn feedback into bare prompts."""
    columns = sorted({str(column) for row in first_rows for column in row} - {"prompt"})
    return [column for column in columns if _names_feedback(column) or _holds_text(column, first_rows)]


def _names_feedback(column: str) -> bool:
    words = _words_of(column)
    return (
        column.lower() in ("a", "b")
        or bool(words & _VERDICT_WORDS)
        or any(
            _LETTERED.fullmatch(word) or difflib.get_close_matches(word, _ANSWER_WORDS, n=1, cutoff=0.75)
            for word in words
        )
    )


def _holds_text(column: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    metadata = bool(_words_of(column) & _METADATA_WORDS)
    for row in rows:
        value = row.get(column)
        if value is None:
            continue
        if len(value if isinstance(value, str) else json.dumps(value, default=str)) >= _SHORT_CHARS:
            return True
        if isinstance(value, str) and not metadata and len(value.split()) >= _SENTENCE_WORDS:
            return True
    return False


def _words_of(column: str) -> set[str]:
    return set(re.split(r"[^a-z]+", column.lower()))


def _demonstration(
    values: Mapping[str, Any], source: str, prompt: tuple[Message, ...], completion: str
) -> AnnotationRow:
    return AnnotationRow(
        record_id(values), source, prompt, (), "demonstration", completion, annotator=_annotator(values)
    )


def _unanswered(identity: str, source: str, prompt: tuple[Message, ...]) -> AnnotationRow:
    return AnnotationRow(identity, source, prompt, (), "demonstration", "", status="draft")


def _annotator(values: Mapping[str, Any]) -> str:
    return text_of(values, "annotator", optional=True) or "unknown"
