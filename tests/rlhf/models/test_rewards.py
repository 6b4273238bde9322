"""Rewards: what a model sees, which position is read, how rewards combine, and what is refused."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from transformers import (
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from rlhf.errors import ConfigError, ModelError, TrainingError
from rlhf.feedback.rows import Message
from rlhf.models.chat import Prompt, encode_completion, encode_prompt
from rlhf.models.rewards import (
    ClassifierReward,
    EnsembleReward,
    FunctionReward,
    MixReward,
    RewardModelReward,
    build_reward,
)
from rlhf.models.settings_rewards import RewardSettings
from rlhf.models.templates import install_template

CHAT: list[Prompt] = [
    [Message(role="user", content=t)] for t in ("My lamp is late.", "Hello", "Can you help me?")
]
ANSWERS = ["I am sorry", "", "Kind regards, the support team"]


def by_length(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
    return [float(len(c)) for c in completions]


def too_few(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
    return [1.0]


def _save_llama(
    path: Path, tokenizer: PreTrainedTokenizerFast, **changes: object
) -> LlamaForSequenceClassification:
    torch.manual_seed(0)
    config = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 128, "num_labels": 1, "initializer_range": 0.3,
        "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, **changes,
    }  # fmt: skip
    model = LlamaForSequenceClassification(LlamaConfig(**config)).eval()
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return model


@pytest.fixture
def reward_directory(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    _save_llama(tmp_path / "rm", tokenizer)
    return tmp_path / "rm"


def _score_at_the_end(model: LlamaForSequenceClassification, ids: list[int]) -> float:
    with torch.no_grad():
        return float(model.score(model.model(torch.tensor([ids])).last_hidden_state[0, -1]))


@pytest.mark.parametrize("pad_is_eos", [False, True])
def test_a_conversation_is_scored_at_its_eos_even_if_the_pad_token_is_eos(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, pad_is_eos: bool
) -> None:
    if pad_is_eos:
        tokenizer.pad_token = tokenizer.eos_token
    model = _save_llama(tmp_path, tokenizer)
    found = RewardModelReward(tmp_path)(CHAT, ANSWERS)
    for prompt, answer, score in zip(CHAT, ANSWERS, found, strict=True):
        ids = encode_prompt(tokenizer, prompt) + encode_completion(tokenizer, answer)
        assert score == pytest.approx(_score_at_the_end(model, ids), abs=1e-5)


def test_plain_text_is_scored_as_prompt_then_completion_then_eos(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = _save_llama(tmp_path, tokenizer)
    (score,) = RewardModelReward(tmp_path)(["My lamp "], ["arrived broken."])
    ids = encode_prompt(tokenizer, "My lamp ") + encode_completion(tokenizer, "arrived broken.")
    assert ids[-1] == tokenizer.eos_token_id
    assert score == pytest.approx(_score_at_the_end(model, ids), abs=1e-5)


@pytest.mark.parametrize("budget", [1, 40])
def test_scores_do_not_depend_on_the_batching(reward_directory: Path, budget: int) -> None:
    whole = RewardModelReward(reward_directory)(CHAT, ANSWERS)
    assert RewardModelReward(reward_directory, token_budget=budget)(CHAT, ANSWERS) == pytest.approx(
        whole, abs=1e-5
    )


def test_an_overlong_conversation_keeps_its_end_and_is_counted(
    reward_directory: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    reward = RewardModelReward(reward_directory, max_length=20)
    long: Prompt = [Message(role="user", content="Hello world " * 40 + "broken")]
    longer: Prompt = [Message(role="user", content="Dear Mirato " * 60 + "Hello world " * 40 + "broken")]
    one, other = reward([long, longer], ["sorry"] * 2)
    assert reward.truncated == 2
    assert one == pytest.approx(other, abs=1e-5)
    reward(CHAT[1:2], ["sorry"])
    assert reward.truncated == 2


def test_an_encoder_sees_its_padding_mask(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=130, pad_token_id=tokenizer.pad_token_id, num_labels=2,
        id2label={0: "negative", 1: "positive"}, label2id={"negative": 0, "positive": 1},
        initializer_range=0.3,
    )  # fmt: skip
    RobertaForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    texts = ["Hello", "Kind regards, the support team, and many more words", "late"]
    reward = ClassifierReward(tmp_path, label="positive", output="probability")
    together = reward([""] * 3, texts)
    alone = [reward([""], [t])[0] for t in texts]
    assert together == pytest.approx(alone, abs=1e-5)
    other = ClassifierReward(tmp_path, label="negative", output="probability")([""] * 3, texts)
    assert [a + b for a, b in zip(together, other, strict=True)] == pytest.approx([1.0] * 3)
    with pytest.raises(ConfigError, match="no label 'happy'; it has negative, positive"):
        ClassifierReward(tmp_path, label="happy")
    with pytest.raises(ModelError, match="has 2 outputs"):
        RewardModelReward(tmp_path)


def test_an_absent_reward_model_and_an_absent_template_are_named(
    tmp_path: Path, reward_directory: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(ModelError, match="nothing-here"):
        RewardModelReward(tmp_path / "nothing-here")
    (reward_directory / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        RewardModelReward(reward_directory)(CHAT, ANSWERS)


@pytest.mark.parametrize("template", ["chat", "instruction"])
def test_the_scored_ids_are_those_that_rollouts_have(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, template: str
) -> None:
    install_template(tokenizer, template)  # type: ignore[arg-type]
    model = _save_llama(tmp_path, tokenizer)
    reward = RewardModelReward(tmp_path)
    for prompt, answer in zip(CHAT, ANSWERS, strict=True):
        ids = encode_prompt(tokenizer, prompt) + encode_completion(tokenizer, answer)
        assert reward([prompt], [answer]) == pytest.approx([_score_at_the_end(model, ids)], abs=1e-5)


def test_a_score_that_is_not_finite_names_the_sample(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = _save_llama(tmp_path, tokenizer)
    with torch.no_grad():
        model.score.weight.fill_(math.inf)
    model.save_pretrained(tmp_path)
    with pytest.raises(TrainingError, match=r"for sample 0 \(prompt 'user: My lamp is late\.'\)"):
        RewardModelReward(tmp_path)(CHAT, ANSWERS)


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
