"""Rules as a reward: length, patterns, keywords, quotations, JSON, repetition.

Each rule is a pure function of one prompt and completion with a value from 0 to 1; nothing here is learnt,
and nothing knows a language.
"""

import json
from collections.abc import Sequence
from typing import assert_never

import regex

from rlhf.errors import TrainingError
from rlhf.models.chat import Prompt
from rlhf.models.reward_identity import identity_of
from rlhf.models.reward_protocol import checked_scores
from rlhf.models.settings_rules import (
    JSONRule,
    KeywordsRule,
    LengthRule,
    PatternRule,
    QuoteRule,
    RepetitionRule,
    Rule,
    Unit,
)

_PATTERN_SECONDS = 1.0
"""Longest search of one pattern: a policy that is rewarded for it finds texts on which it takes for ever."""


class RulesReward:
    """The weighted sum of rules.

    Raises:
        TrainingError: a pattern takes longer than a second on some text.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = tuple(rules)

    @property
    def identity(self) -> str:
        """What its scores follow from."""
        return identity_of(self, rules=[rule.model_dump(mode="json") for rule in self._rules])

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        scores = [
            sum(rule.weight * rule_value(rule, prompt, completion) for rule in self._rules)
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        return checked_scores(scores, prompts, name="the rules")


def rule_value(rule: Rule, prompt: Prompt, completion: str) -> float:
    """How far a completion keeps a rule: from 0 to 1, the rule's weight left aside."""
    match rule:
        case LengthRule():
            return length_value(rule, completion)
        case PatternRule():
            return pattern_value(rule, completion)
        case KeywordsRule():
            return keywords_value(rule, completion)
        case QuoteRule():
            return quote_value(rule, prompt, completion)
        case JSONRule():
            return json_value(rule, completion)
        case RepetitionRule():
            return distinct_share(completion, rule.n, rule.unit)
    assert_never(rule)


def length_value(rule: LengthRule, completion: str) -> float:
    """1 within the bounds; beyond them falling to 0 over the tolerance."""
    length = len(_units(completion, rule.unit))
    beyond = max(rule.minimum - length, 0 if rule.maximum is None else length - rule.maximum, 0)
    return max(0.0, 1.0 - beyond / (rule.tolerance + 1)) if beyond else 1.0


def pattern_value(rule: PatternRule, completion: str) -> float:
    """1 if the pattern is found (or, forbidden, is not), else 0."""
    try:
        found = regex.search(rule.pattern, completion, timeout=_PATTERN_SECONDS) is not None
    except TimeoutError as error:
        raise _too_slow(rule.pattern) from error
    return float(found != rule.forbidden)


def keywords_value(rule: KeywordsRule, completion: str) -> float:
    """Share of the words that are there as required, or absent as forbidden. A word is found between
    characters that could not belong to it, so ``sorry`` is not found in ``sorrynot``."""
    flags = 0 if rule.case_sensitive else regex.IGNORECASE

    def found(word: str) -> bool:
        return (
            regex.search(rf"(?<!\w){regex.escape(word.strip())}(?!\w)", completion, flags=flags) is not None
        )

    kept = [found(word) for word in rule.required] + [not found(word) for word in rule.forbidden]
    return sum(kept) / len(kept)


def quote_value(rule: QuoteRule, prompt: Prompt, completion: str) -> float:
    """Share of the different texts found in the prompt that stand in the completion, 1 where none is
    found."""
    text = prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)
    try:
        matches = list(regex.finditer(rule.pattern, text, timeout=_PATTERN_SECONDS))
    except TimeoutError as error:
        raise _too_slow(rule.pattern) from error
    group = 1 if regex.compile(rule.pattern).groups else 0
    wanted = {found for match in matches if (found := match.group(group))}
    return sum(found in completion for found in wanted) / len(wanted) if wanted else 1.0


def json_value(rule: JSONRule, completion: str) -> float:
    """1 for JSON (an object with the required keys), else 0. NaN and Infinity are not JSON."""
    try:
        value = json.loads(completion, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return 0.0
    if not rule.required_keys:
        return 1.0
    return float(isinstance(value, dict) and set(rule.required_keys) <= set(value))


def distinct_share(text: str, n: int, unit: Unit) -> float:
    """Different n-grams over all n-grams (Li et al. 2016, arXiv:1510.03055, call it distinct-n); 1 for texts
    too short to have one."""
    units = _units(text, unit)
    grams = [tuple(units[at : at + n]) for at in range(len(units) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def _units(text: str, unit: Unit) -> Sequence[str]:
    return text.split() if unit == "words" else text.strip()


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _too_slow(pattern: str) -> TrainingError:
    return TrainingError(
        f"The rule's pattern '{pattern}' searched one text for more than {_PATTERN_SECONDS:g} s; write it "
        "without nested repetitions."
    )
