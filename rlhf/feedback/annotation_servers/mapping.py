"""What the fields and questions of an annotation project mean: taken from the config where it says so, else
guessed from names and types, checked against what the project has now, and put into words."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rlhf.errors import ConfigError
from rlhf.feedback.annotation_servers.schema import Question, Schema
from rlhf.feedback.annotation_servers.settings import TIE, MappingSettings, QuestionKind, QuestionSettings

_SYSTEM = {"system"}
_CONTEXT = {"context", "background", "document", "passage", "source", "reference"}
_RESPONSE = {
    "response", "responses", "completion", "answer", "output", "reply", "replies", "generation", "candidate",
    "chosen", "rejected", "summary", "items",
}  # fmt: skip
_PROMPT = {
    "prompt", "instruction", "question", "query", "input", "enquiry", "request", "message", "messages",
    "chat", "conversation", "dialogue", "user", "text",
}  # fmt: skip
_EDITED = {
    "new",
    "final",
    "corrected",
    "correct",
    "edited",
    "edit",
    "improved",
    "rewritten",
    "revised",
    "fixed",
}
_ORIGINAL = {"original", "initial", "generated"}
_REMARK = {
    "comment", "comments", "note", "notes", "reason", "reasons", "reasoning", "rationale", "explanation",
    "why", "feedback", "remark", "remarks", "justification", "doubts",
}  # fmt: skip
_TIES = {"tie", "equal", "same", "both", "draw", "neither", "none"}
_POSITIONS = ({"1", "a", "first", "left"}, {"2", "b", "second", "right"})


@dataclass(frozen=True)
class Meaning:
    """What one question's answers become."""

    kind: QuestionKind
    about: str | None = None
    """The response, or for ``prompt-edit`` the prompt field, that it is about."""
    options: Mapping[str, str] = field(default_factory=dict)
    """For comparisons and rankings: response field, or ``tie``, by option."""
    items: str | None = None
    """For rankings of a list of responses: the field that holds the list."""
    why: str = ""
    """Why it is unused."""


@dataclass(frozen=True)
class Plan:
    """What all fields and questions of a project mean."""

    system: str | None
    context: tuple[str, ...]
    prompt: str
    responses: tuple[str, ...]
    meanings: Mapping[str, Meaning]
    schema: Schema

    @property
    def in_words(self) -> str:
        """One line for people, from which a config's ``mapping`` can be written."""
        parts = [f"prompt: {self.prompt}"]
        if self.system:
            parts.append(f"system: {self.system}")
        if self.context:
            parts.append(f"context: {', '.join(self.context)}")
        if self.responses:
            parts.append(f"responses: {', '.join(self.responses)}")
        for name, meaning in self.meanings.items():
            about = f" of {meaning.about}" if meaning.about else ""
            why = f" ({meaning.why})" if meaning.why else ""
            parts.append(f"question {name} -> {meaning.kind}{about}{why}")
        return "; ".join(parts)


def plan_mapping(schema: Schema, settings: MappingSettings, source: str) -> Plan:
    """Decide what everything means.

    Raises:
        ConfigError: the config names a field or question that the project does not have (any more), or a
            meaning that its type cannot have; or no prompt can be told.
    """
    _require_known(schema, settings, source)
    chosen = _chosen(settings)
    free = [f.name for f in schema.fields if f.name not in chosen and f.type != "other"]
    system = settings.system or (None if settings.prompt else _first(free, _SYSTEM))
    free = [name for name in free if name != system]
    responses = settings.responses
    if responses is None:
        responses = tuple(name for name in free if _words(name) & _RESPONSE)
    free = [name for name in free if name not in responses]
    context = settings.context
    if context is None:
        context = tuple(name for name in free if _words(name) & _CONTEXT)
    free = [name for name in free if name not in context]
    prompt = settings.prompt or _guessed_prompt(schema, free)
    if prompt is None:
        raise ConfigError(
            f"sources: '{source}' has the fields {_listed(f.name for f in schema.fields)}, none of which is "
            "clearly the prompt; name it under mapping.prompt."
        )
    plan = Plan(system, context, prompt, responses, {}, schema)
    meanings = {
        question.name: _configured(question, settings.questions[question.name], plan, source)
        if question.name in settings.questions
        else _guessed(question, plan)
        for question in schema.questions
    }
    return Plan(system, context, prompt, responses, meanings, schema)


def _require_known(schema: Schema, settings: MappingSettings, source: str) -> None:
    known = {f.name for f in schema.fields}
    if absent := sorted(_chosen(settings) - known):
        raise ConfigError(
            f"sources: '{source}' has no field {_listed(absent)} but {_listed(sorted(known))}; its settings "
            "have changed or the mapping is misspelt: correct `mapping`."
        )
    questions = {question.name for question in schema.questions}
    if absent := sorted(settings.questions.keys() - questions):
        raise ConfigError(
            f"sources: '{source}' has no question {_listed(absent)} but {_listed(sorted(questions))}; it was "
            "removed or renamed since the mapping was made: correct mapping.questions."
        )


def _chosen(settings: MappingSettings) -> set[str]:
    named = {settings.system, settings.prompt, *(settings.context or ()), *(settings.responses or ())}
    return {name for name in named if name is not None}


def _configured(question: Question, settings: QuestionSettings, plan: Plan, source: str) -> Meaning:
    if settings.kind not in _POSSIBLE[question.type]:
        raise ConfigError(
            f"sources: question '{question.name}' of '{source}' is of type {question.type} and cannot be a "
            f"{settings.kind} but {_listed(_POSSIBLE[question.type])}; correct mapping.questions."
        )
    guess = _about(question, settings.kind, plan)
    field_name = settings.field or guess.about
    allowed = _prompt_fields(plan) if settings.kind == "prompt-edit" else plan.responses
    if settings.kind in ("rating", "label", "text-edit", "prompt-edit") and field_name not in (
        *allowed,
        *_last_turn(plan),
    ):
        raise ConfigError(
            f"sources: question '{question.name}' of '{source}' needs in mapping.questions the `field` that "
            f"it is about, one of {_listed(allowed)}."
        )
    options = {**guess.options, **settings.options}
    if wrong := sorted(set(options.values()) - {*plan.responses, TIE}):
        raise ConfigError(
            f"sources: question '{question.name}' of '{source}' has options for {_listed(wrong)}, which are "
            f"no response fields ({_listed(plan.responses)}); correct mapping.questions."
        )
    chooses = settings.kind in ("comparison", "ranking") and not guess.items
    if chooses and (absent := sorted(set(question.options) - options.keys())):
        raise ConfigError(
            f"sources: question '{question.name}' of '{source}' has the options {_listed(absent)}, of "
            "which mapping.questions must say in `options` which response field they stand for."
        )
    return Meaning(settings.kind, field_name, options, guess.items)


_POSSIBLE: Mapping[str, tuple[QuestionKind, ...]] = {
    "text": ("demonstration", "text-edit", "prompt-edit", "label", "unused"),
    "rating": ("rating", "comparison", "label", "unused"),
    "label": ("label", "comparison", "unused"),
    "multi-label": ("label", "unused"),
    "ranking": ("ranking", "unused"),
    "pairwise": ("comparison", "unused"),
    "span": ("unused",),
    "other": ("unused",),
}


def _guessed(question: Question, plan: Plan) -> Meaning:
    match question.type:
        case "text":
            return _guessed_text(question, plan)
        case "rating":
            return _about(question, "rating", plan)
        case "label":
            as_comparison = _about(question, "comparison", plan)
            return as_comparison if as_comparison.options else _about(question, "label", plan)
        case "multi-label":
            return _about(question, "label", plan)
        case "ranking":
            return _about(question, "ranking", plan)
        case "pairwise":
            return _about(question, "comparison", plan)
    return Meaning("unused", why="spans and other tasks teach no policy here")


def _about(question: Question, kind: QuestionKind, plan: Plan) -> Meaning:
    """The guessed meaning of a question that is known to be of some kind."""
    match kind:
        case "comparison" if question.type == "pairwise":
            about = [name for name in question.about if name in plan.responses]
            if len(about) == 2:
                return Meaning(kind, options={"0": about[0], "1": about[1], TIE: TIE})
            return Meaning("unused", why="its two responses cannot be told")
        case "comparison":
            return Meaning(kind, options=_options_as_responses(question.options, plan.responses))
        case "ranking":
            lists = [name for name in question.about if name in _lists(plan)]
            if lists:
                return Meaning(kind, items=lists[0])
            options = _options_as_responses(question.options, plan.responses)
            return (
                Meaning(kind, options=options) if options else Meaning("unused", why="it ranks no responses")
            )
        case "rating" | "label" | "text-edit":
            field_name = _one_response(question, plan)
            if field_name is None:
                return Meaning("unused", why="which response it is about cannot be told")
            return Meaning(kind, field_name)
        case "prompt-edit":
            return Meaning(kind, _edited_field(question, _prompt_fields(plan)))
    return Meaning(kind)


def _guessed_text(question: Question, plan: Plan) -> Meaning:
    if edited := _edited_field(question, plan.responses):
        return Meaning("text-edit", edited)
    if edited := _edited_field(question, _prompt_fields(plan)):
        return Meaning("prompt-edit", edited)
    words = _words(question.name)
    if words & _REMARK:
        return Meaning("unused", why="a remark")
    if words & _EDITED and (one := _one_response(question, plan)):
        return Meaning("text-edit", one)
    if len(question.about) == 1 and question.about[0] in plan.responses:
        return Meaning("text-edit", question.about[0])
    return Meaning("demonstration")


def _edited_field(question: Question, fields: Iterable[str]) -> str | None:
    """The field whose name is the question's, but for words such as "new" and "original"."""
    words = _words(question.name)
    same = [
        name for name in fields if _words(name) - _ORIGINAL == words - _EDITED and _words(name) - _ORIGINAL
    ]
    # A question called exactly like the prompt asks for one; only a changed name speaks of an edit.
    return same[0] if len(same) == 1 and (words & _EDITED or same[0] != question.name) else None


def _options_as_responses(options: Iterable[str], responses: tuple[str, ...]) -> dict[str, str]:
    """Response field by option, or nothing if an option fits none."""
    found: dict[str, str] = {}
    for option in options:
        words = _words(option)
        if option in responses:
            found[option] = option
        elif words & _TIES:
            found[option] = TIE
        elif len(responses) == 2 and (words & _POSITIONS[0]) and not words & _POSITIONS[1]:
            found[option] = responses[0]
        elif len(responses) == 2 and (words & _POSITIONS[1]) and not words & _POSITIONS[0]:
            found[option] = responses[1]
        else:
            return {}
    fields = [name for name in found.values() if name != TIE]
    return found if len(fields) == len(set(fields)) >= 2 else {}


def _one_response(question: Question, plan: Plan) -> str | None:
    about = [name for name in question.about if name in plan.responses]
    if len(about) == 1:
        return about[0]
    if question.about and not about:
        return None
    single = [name for name in plan.responses if name not in _lists(plan)]
    if len(single) == 1:
        return single[0]
    named = [name for name in single if _words(name) <= _words(question.name)]
    if len(named) == 1:
        return named[0]
    return next(iter(_last_turn(plan)), None)


def _last_turn(plan: Plan) -> tuple[str, ...]:
    """A chat without response fields is judged by its last turn."""
    known = plan.schema.field(plan.prompt)
    return (plan.prompt,) if not plan.responses and known is not None and known.type == "chat" else ()


def _lists(plan: Plan) -> set[str]:
    return {known.name for known in plan.schema.fields if known.type == "items"}


def _prompt_fields(plan: Plan) -> tuple[str, ...]:
    return (plan.prompt, *plan.context, *((plan.system,) if plan.system else ()))


def _guessed_prompt(schema: Schema, free: list[str]) -> str | None:
    chats = [known.name for known in schema.fields if known.type == "chat" and known.name in free]
    if len(chats) == 1:
        return chats[0]
    likely = [name for name in free if _words(name) & _PROMPT]
    if len(likely) == 1:
        return likely[0]
    return free[0] if len(free) == 1 else None


def _first(names: Iterable[str], words: set[str]) -> str | None:
    return next((name for name in names if _words(name) & words), None)


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z]+|\d+", name.lower()))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
