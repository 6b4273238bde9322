"""Each rule's value on texts that keep it, break it, and nearly do; and the sum of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from rlhf.errors import TrainingError
from rlhf.feedback.rows import Message
from rlhf.models.chat import Prompt
from rlhf.models.reward_rules import RulesReward, distinct_share, rule_value
from rlhf.models.rewards import build_reward
from rlhf.models.settings_rewards import RewardSettings
from rlhf.models.settings_rules import (
    JSONRule,
    KeywordsRule,
    LengthRule,
    PatternRule,
    QuoteRule,
    RepetitionRule,
    Rule,
)

ORDER: Prompt = [Message(role="user", content="Where are orders 48213 and 90210? Order 48213 is late.")]


@pytest.mark.parametrize(
    ("rule", "completion", "value"),
    [
        (LengthRule(minimum=2, maximum=3), "one two", 1.0),
        (LengthRule(minimum=2, maximum=3), "one two three four", 0.0),
        (LengthRule(minimum=2), "one", 0.0),
        (LengthRule(maximum=3, unit="characters"), "  abc ", 1.0),
        (LengthRule(maximum=2, tolerance=3), "1 2 3", 0.75),
        (LengthRule(maximum=2, tolerance=3), "1 2 3 4 5", 0.25),
        (LengthRule(minimum=9, tolerance=3), "1", 0.0),
        (PatternRule(pattern=r"(?i)^dear\b"), "Dear Mirato", 1.0),
        (PatternRule(pattern=r"^dear\b"), "Dear Mirato", 0.0),
        (PatternRule(pattern="http", forbidden=True), "see http://x", 0.0),
        (PatternRule(pattern="http", forbidden=True), "see below", 1.0),
        (KeywordsRule(required=("sorry", "refund")), "So SORRY.", 0.5),
        (KeywordsRule(required=("sorry",), case_sensitive=True), "So SORRY.", 0.0),
        (KeywordsRule(required=("sorry",)), "sorrynot", 0.0),
        (KeywordsRule(required=("sorry",), forbidden=("cannot", "no idea")), "Sorry, I cannot.", 2 / 3),
        (KeywordsRule(forbidden=("C++",)), "We use C++.", 0.0),
        (QuoteRule(pattern=r"\d{5}"), "Order 48213 is on its way.", 0.5),
        (QuoteRule(pattern=r"orders (\d+)"), "Order 48213 is on its way.", 1.0),
        (QuoteRule(pattern=r"\d{9}"), "Order 48213 is on its way.", 1.0),
        (JSONRule(), '{"a": 1}', 1.0),
        (JSONRule(), "[NaN]", 0.0),
        (JSONRule(), 'Here it is: {"a": 1}', 0.0),
        (JSONRule(required_keys=("a", "b")), '{"a": 1}', 0.0),
        (JSONRule(required_keys=("a",)), '["a"]', 0.0),
        (JSONRule(required_keys=("a",)), '{"a": 1, "b": 2}', 1.0),
        (RepetitionRule(n=2), "ha ha ha ha ha", 0.25),
        (RepetitionRule(n=2), "ha", 1.0),
        (RepetitionRule(n=1, unit="characters"), "哈哈哈哈", 0.25),
    ],
)
def test_a_rules_value_is_how_far_it_is_kept(rule: Rule, completion: str, value: float) -> None:
    assert rule_value(rule, ORDER, completion) == pytest.approx(value)


@given(st.text(alphabet="ab ", max_size=30), st.integers(1, 4))
def test_saying_a_text_twice_never_makes_it_less_repetitive(text: str, n: int) -> None:
    words = len(text.split())
    twice = distinct_share(f"{text} {text}", n, "words")
    assert 0 < twice <= 1
    if words >= 2 * n:
        assert twice <= distinct_share(text, n, "words")


def test_a_quotation_is_looked_for_in_every_turn_of_a_chat_and_in_plain_text() -> None:
    rule = QuoteRule(pattern=r"\d+")
    chat: Prompt = [Message(role="user", content="Order 12."), Message(role="user", content="And 34.")]
    assert rule_value(rule, chat, "34") == 0.5
    assert rule_value(rule, "Order 12.", "34") == 0.0


def test_the_score_is_the_weighted_sum() -> None:
    settings = TypeAdapter(RewardSettings).validate_python(
        {
            "type": "rules",
            "rules": [
                {"type": "length", "maximum": 2, "weight": 0.5},
                {"type": "pattern", "pattern": "never", "weight": -2},
            ],
        }
    )
    assert build_reward(settings)([ORDER] * 3, ["yes", "never", "you will never know"]) == [0.5, -1.5, -2.0]


def test_a_pattern_that_searches_for_ever_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf.models.reward_rules._PATTERN_SECONDS", 0.05)
    pattern = r"^(a|aa|a+b?)+$"
    with pytest.raises(TrainingError, match=r"\^\(a\|aa"):
        RulesReward([PatternRule(pattern=pattern)])([ORDER], ["a" * 200 + "!"])
    with pytest.raises(TrainingError, match=r"\^\(a\|aa"):
        RulesReward([QuoteRule(pattern=pattern)])(["a" * 200 + "!"], ["x"])


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"type": "pattern", "pattern": "("}, "no regular expression"),
        ({"type": "quote", "pattern": "[a"}, "no regular expression"),
        ({"type": "length", "minimum": 3, "maximum": 2}, "maximum 2 is below minimum 3"),
        ({"type": "keywords"}, "required or forbidden"),
        ({"type": "keywords", "required": [" "]}, "none of them empty"),
        ({"type": "politeness"}, "politeness"),
        ({"type": "json", "weight": float("nan")}, "finite"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_with_the_config(rule: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(RewardSettings).validate_python({"type": "rules", "rules": [rule]})
