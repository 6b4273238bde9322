"""Reward models and classifiers: what a model sees, which position is read, which probability is meant."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from pydantic import TypeAdapter
from tokenizers.processors import TemplateProcessing
from transformers import (
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    pipeline,
)

from rlhf.errors import ConfigError, ModelError, TrainingError
from rlhf.feedback.rows import Message
from rlhf.models.chat import Prompt, encode_completion, encode_prompt
from rlhf.models.reward_classifiers import ClassifierReward, RewardModelReward
from rlhf.models.rewards import build_reward
from rlhf.models.settings_rewards import RewardSettings
from rlhf.models.templates import install_template

SaveRewardModel = Callable[..., LlamaForSequenceClassification]
CHAT: list[Prompt] = [
    [Message(role="user", content=t)] for t in ("My lamp is late.", "Hello", "Can you help me?")
]
ANSWERS = ["I am sorry", "", "Kind regards, the support team"]


def _score_at_the_end(model: LlamaForSequenceClassification, ids: list[int]) -> float:
    with torch.no_grad():
        return float(model.score(model.model(torch.tensor([ids])).last_hidden_state[0, -1]))


@pytest.mark.parametrize("pad_is_eos", [False, True])
def test_a_conversation_is_scored_at_its_eos_even_if_the_pad_token_is_eos(
    save_reward_model: SaveRewardModel, tmp_path: Path, tokenizer: PreTrainedTokenizerFast, pad_is_eos: bool
) -> None:
    if pad_is_eos:
        tokenizer.pad_token = tokenizer.eos_token
    model = save_reward_model(tmp_path, tokenizer)
    found = RewardModelReward(tmp_path)(CHAT, ANSWERS)
    for prompt, answer, score in zip(CHAT, ANSWERS, found, strict=True):
        ids = encode_prompt(tokenizer, prompt) + encode_completion(tokenizer, answer)
        assert score == pytest.approx(_score_at_the_end(model, ids), abs=1e-5)


def test_plain_text_is_scored_as_prompt_then_completion_then_eos(
    save_reward_model: SaveRewardModel, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = save_reward_model(tmp_path, tokenizer)
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


def test_an_overlong_text_keeps_the_token_that_an_encoder_is_read_at(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    end = tokenizer.eos_token_id
    tokenizer.add_special_tokens({"cls_token": "[CLS]"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"[CLS] $A {tokenizer.eos_token}",
        special_tokens=[("[CLS]", tokenizer.cls_token_id), (tokenizer.eos_token, end)],
    )
    _save_classifier(tmp_path, tokenizer, id2label={0: "toxic", 1: "fine"})
    reward = ClassifierReward(tmp_path, label="toxic", max_length=8)
    long = "Hello world " * 20 + "Kind regards, the support team"
    ids = tokenizer(long)["input_ids"]
    read = [ids[0], *ids[-7:]]
    assert (read[0], read[-1]) == (tokenizer.cls_token_id, end)
    model = RobertaForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = model(torch.tensor([read])).logits[0, 0]
    assert reward([""], [long]) == pytest.approx([float(expected)], abs=1e-5)
    reward(["", ""], [long, "late"])
    assert reward.truncated == 2
    assert caplog.text.count("longer than the 8 tokens") == 1


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


def _save_classifier(path: Path, tokenizer: PreTrainedTokenizerFast, **changes: Any) -> None:
    torch.manual_seed(1)
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=130, pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3, **changes,
    )  # fmt: skip
    RobertaForSequenceClassification(config).save_pretrained(path)
    tokenizer.save_pretrained(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"id2label": {0: "toxic", 1: "rude", 2: "threat"}, "problem_type": "multi_label_classification"},
        {"id2label": {0: "toxic", 1: "rude", 2: "threat"}, "problem_type": "single_label_classification"},
        {"id2label": {0: "toxic"}},
    ],
)
def test_a_probability_is_that_of_the_text_classification_pipeline(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, changes: dict[str, Any]
) -> None:
    _save_classifier(tmp_path, tokenizer, **changes)
    reward = ClassifierReward(tmp_path, label="toxic", output="probability")
    pipe = pipeline("text-classification", str(tmp_path), tokenizer=tokenizer, top_k=None)
    for text in ("Hello", "My lamp arrived broken."):
        expected = next(entry["score"] for entry in pipe([text])[0] if entry["label"] == "toxic")
        assert reward([""], [text]) == pytest.approx([expected], abs=1e-5)


def test_a_classifier_is_found_by_its_name_and_commit_on_the_hub(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    labels = {"id2label": {0: "bad", 1: "good"}}
    _save_classifier(tmp_path / "models--desk--mood" / "snapshots" / commit, tokenizer, **labels)
    _save_classifier(tmp_path / "local", tokenizer, **labels)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    settings = TypeAdapter(RewardSettings).validate_python(
        {"type": "classifier", "path": "desk/mood", "revision": commit, "label": "good"}
    )
    expected = ClassifierReward(tmp_path / "local", label="good")(CHAT, ANSWERS)
    assert build_reward(settings)(CHAT, ANSWERS) == pytest.approx(expected)
    with pytest.raises(ModelError, match="desk/gloom"):
        ClassifierReward("desk/gloom", label="good")


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
    save_reward_model: SaveRewardModel, tmp_path: Path, tokenizer: PreTrainedTokenizerFast, template: str
) -> None:
    install_template(tokenizer, template)  # type: ignore[arg-type]
    model = save_reward_model(tmp_path, tokenizer)
    reward = RewardModelReward(tmp_path)
    for prompt, answer in zip(CHAT, ANSWERS, strict=True):
        ids = encode_prompt(tokenizer, prompt) + encode_completion(tokenizer, answer)
        assert reward([prompt], [answer]) == pytest.approx([_score_at_the_end(model, ids)], abs=1e-5)


def test_a_score_that_is_not_finite_names_the_sample(
    save_reward_model: SaveRewardModel, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = save_reward_model(tmp_path, tokenizer)
    with torch.no_grad():
        model.score.weight.fill_(math.inf)
    model.save_pretrained(tmp_path)
    with pytest.raises(TrainingError, match=r"for sample 0 \(prompt 'user: My lamp is late\.'\)"):
        RewardModelReward(tmp_path)(CHAT, ANSWERS)
