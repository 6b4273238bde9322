"""Rewards: what a model sees, which position is read, how rewards combine, and what is refused."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import TypeAdapter, ValidationError

from rlhf.errors import ConfigError, TrainingError
from rlhf.feedback.rows import Message
from rlhf.models.chat import Prompt
from rlhf.models.reward_classifiers import RewardModelReward
from rlhf.models.rewards import EnsembleReward, FunctionReward, MixReward, build_reward
from rlhf.models.settings_rewards import RewardSettings

CHAT: list[Prompt] = [
    [Message(role="user", content=t)] for t in ("My lamp is late.", "Hello", "Can you help me?")
]
ANSWERS = ["I am sorry", "", "Kind regards, the support team"]


def by_length(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
    return [float(len(c)) for c in completions]


def too_few(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
    return [1.0]


@pytest.fixture
def function(monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's reward function, by its dotted name."""
    module = ModuleType("house_rewards")
    module.by_length = by_length  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "house_rewards", module)
    return "house_rewards:by_length"


def test_a_function_is_called_by_its_dotted_name(function: str) -> None:
    assert FunctionReward(function)(CHAT, ANSWERS) == [float(len(a)) for a in ANSWERS]
    for wrong in ("rlhf.nothing:here", "house_rewards:nothing", "house_rewards"):
        with pytest.raises(ConfigError, match="cannot be imported"):
            FunctionReward(wrong)
    with pytest.raises(ConfigError, match="not a function"):
        FunctionReward("math:pi")


def test_a_reward_with_too_few_scores_is_refused() -> None:
    with pytest.raises(TrainingError, match="1 scores for 3 samples"):
        MixReward([too_few], [1.0])(CHAT, ANSWERS)


def test_a_mix_is_the_weighted_sum() -> None:
    mix = MixReward([by_length, lambda p, c: [1.0] * len(p)], [2.0, -3.0])
    assert mix(CHAT, ANSWERS) == [2.0 * len(a) - 3.0 for a in ANSWERS]


def test_an_ensemble_reduces_to_mean_minimum_or_lower_bound() -> None:
    members = [lambda p, c, s=s: [s] * len(p) for s in (1.0, 2.0, 6.0)]
    deviation = math.sqrt(((1 - 3) ** 2 + (2 - 3) ** 2 + (6 - 3) ** 2) / 3)
    assert EnsembleReward(members, "mean")(CHAT, ANSWERS) == pytest.approx([3.0] * 3)
    assert EnsembleReward(members, "min")(CHAT, ANSWERS) == [1.0] * 3
    assert EnsembleReward(members, "lower_bound", 0.5)(CHAT, ANSWERS) == pytest.approx(
        [3 - deviation / 2] * 3
    )


def test_rewards_are_built_from_nested_settings(reward_directory: Path, function: str) -> None:
    settings = TypeAdapter(RewardSettings).validate_python(
        {
            "type": "mix",
            "weights": [1.0, 0.5],
            "rewards": [
                {"type": "reward_model", "path": str(reward_directory)},
                {
                    "type": "ensemble",
                    "reduce": "mean",
                    "rewards": [{"type": "function", "function": function}] * 2,
                },
            ],
        }
    )
    model = RewardModelReward(reward_directory)(CHAT, ANSWERS)
    expected = [a + 0.5 * len(b) for a, b in zip(model, ANSWERS, strict=True)]
    assert build_reward(settings)(CHAT, ANSWERS) == pytest.approx(expected)


def test_the_proxy_is_the_given_reward_model_wherever_it_is_named(reward_directory: Path) -> None:
    settings = TypeAdapter(RewardSettings).validate_python(
        {
            "type": "mix",
            "weights": [2.0],
            "rewards": [
                {"type": "ensemble", "reduce": "min", "rewards": [{"type": "proxy"}, {"type": "proxy"}]}
            ],
        }
    )
    expected = [2.0 * score for score in RewardModelReward(reward_directory)(CHAT, ANSWERS)]
    assert build_reward(settings, proxy=reward_directory)(CHAT, ANSWERS) == pytest.approx(expected)
    with pytest.raises(ConfigError, match="type 'proxy'"):
        build_reward(settings)


def test_settings_with_an_unknown_type_or_a_missing_weight_are_refused() -> None:
    adapter: TypeAdapter[object] = TypeAdapter(RewardSettings)
    with pytest.raises(ValidationError, match="reward_model"):
        adapter.validate_python({"type": "oracle"})
    with pytest.raises(ValidationError, match="1 rewards but 2 weights"):
        adapter.validate_python(
            {"type": "mix", "weights": [1, 2], "rewards": [{"type": "function", "function": "a:b"}]}
        )
