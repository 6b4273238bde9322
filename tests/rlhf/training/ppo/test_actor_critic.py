"""The networks of PPO before any learning."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from rlhf.errors import ConfigError, ModelError
from rlhf.models.log_probs import collate
from rlhf.models.reward_classifiers import RewardModelReward
from rlhf.training.ppo.actor_critic import (
    ActorCritic,
    MovingAverage,
    RolloutPolicy,
    load_networks,
    uses_bf16,
)
from rlhf.training.ppo.settings import PPOSettings

PAIRS = [([3, 4, 5], [6, 7, 2]), ([8], [9, 10, 11, 12, 2]), ([3, 9], [2])]
Settings = Callable[..., PPOSettings]


def test_at_the_start_the_critics_value_at_eos_is_the_reward_models_score(
    policy_path: Path, reward_path: Path, make_settings: Settings, prompts: list[str]
) -> None:
    models, tokenizer = load_networks(policy_path, reward_path, make_settings())
    completions = ["f g", "a b c d", ""]
    scores = RewardModelReward(reward_path)(prompts[:3], [f" {c}" for c in completions])
    for prompt, completion, score in zip(prompts, completions, scores, strict=False):
        ids = [*tokenizer(prompt)["input_ids"], *tokenizer(completion)["input_ids"], tokenizer.eos_token_id]
        # the value *at* a position is the estimate before the token that follows it: append one to see EOS's
        value = models.predict(collate([(ids, [3])], models.device)).values
        assert value is not None
        assert value.item() == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_without_a_reward_model_all_values_start_at_0(
    policy_path: Path, make_settings: Settings, critic: str
) -> None:
    models, _ = load_networks(policy_path, None, make_settings(critic=critic))
    values = models.predict(collate(PAIRS, models.device)).values
    assert values is not None
    assert torch.equal(values, torch.zeros(9))


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(vocab_size=16, n_embd=16, n_layer=1, n_head=2, n_positions=32),
        GPTNeoXConfig(vocab_size=16, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                      intermediate_size=24, max_position_embeddings=32),
        Qwen2Config(vocab_size=16, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                    num_key_value_heads=1, intermediate_size=24, max_position_embeddings=32),
    ],
    ids=lambda config: config.model_type,
)  # fmt: skip
@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_a_critic_from_the_policy_has_its_trunk_and_values_each_token(
    config: PreTrainedConfig,
    lora: dict[str, int] | None,
    make_settings: Settings,
    make_tokenizer: Callable[..., PreTrainedTokenizerFast],
    tmp_path: Path,
) -> None:
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    models, _ = load_networks(tmp_path, None, make_settings(lora=lora))
    assert models.critic is not None
    ids = torch.tensor([[3, 4, 5, 6]])
    ours, theirs = (m.base_model(ids).last_hidden_state for m in (models.policy, models.critic))
    torch.testing.assert_close(theirs, ours)
    with torch.no_grad():
        for name, parameter in models.value_parameters().items():
            if "score" in name:
                parameter.fill_(0.5)
    values = models.predict(collate([([3], [4, 5, 6])], models.device)).values
    torch.testing.assert_close(values, 0.5 * ours[0, :3].sum(-1))


def test_dropout_is_off_so_two_passes_agree(small_config: LlamaConfig) -> None:
    torch.manual_seed(0)
    policy = GPT2LMHeadModel(
        GPT2Config(vocab_size=16, n_embd=16, n_layer=1, n_head=2, n_positions=32, resid_pdrop=0.5)
    )
    critic = LlamaForSequenceClassification(small_config)
    models = ActorCritic(policy.train(), critic.train(), bf16=False, temperature=1.0)
    batch = collate(PAIRS, models.device)
    one, other = (models.predict(batch) for _ in range(2))
    assert one.log_probs is not None
    assert other.log_probs is not None
    assert torch.equal(one.log_probs, other.log_probs)


def test_the_reference_keeps_the_starting_weights_and_the_temperature_applies_to_both(
    policy_path: Path, make_settings: Settings
) -> None:
    settings = make_settings(generation={"max_new_tokens": 8, "temperature": 0.7})
    models, _ = load_networks(policy_path, None, settings)
    batch = collate(PAIRS, models.device)
    before = models.predict(batch).log_probs
    assert before is not None
    assert torch.equal(before, models.reference_log_probs(batch))
    logits = models.policy(batch.ids).logits / 0.7
    expected = logits[0, 2:5].log_softmax(-1).gather(1, torch.tensor([[6], [7], [2]]))[:, 0]
    torch.testing.assert_close(before[:3], expected)
    with torch.no_grad():
        models.policy.get_parameter("lm_head.weight").mul_(2.0)
    assert torch.equal(before.detach(), models.reference_log_probs(batch).detach())
    assert not torch.equal(before, models.predict(batch).log_probs)


def test_a_reward_model_cannot_start_a_shared_critic(
    policy_path: Path, reward_path: Path, make_settings: Settings
) -> None:
    with pytest.raises(ConfigError, match=r"ppo\.critic"):
        load_networks(policy_path, reward_path, make_settings(critic="shared"))


def test_a_critic_with_another_vocabulary_is_refused(
    policy_path: Path,
    reward_path: Path,
    make_settings: Settings,
    make_tokenizer: Callable[..., PreTrainedTokenizerFast],
    tmp_path: Path,
) -> None:
    LlamaForSequenceClassification.from_pretrained(reward_path).save_pretrained(tmp_path)
    make_tokenizer(words=["<pad>", "<s>", "</s>", "z"]).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="another vocabulary"):
        load_networks(policy_path, tmp_path, make_settings())


def test_an_absent_policy_is_named(tmp_path: Path, make_settings: Settings) -> None:
    with pytest.raises(ModelError, match="nothing-here"):
        load_networks(tmp_path / "nothing-here", None, make_settings())


def test_the_moving_average_equals_its_closed_form_and_gives_the_weights_back() -> None:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    average = MovingAverage(dict(model.named_parameters()), decay=0.9)
    for value in (2.0, 3.0, 4.0):
        model.weight.data.fill_(value)
        average.update()
    expected = 0.9**3 * 1.0 + 0.1 * (0.9**2 * 2.0 + 0.9 * 3.0 + 4.0)
    with average.in_place():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 4.0


def test_rollouts_in_single_precision_come_from_the_policy_itself(
    policy_path: Path, make_settings: Settings
) -> None:
    models, _ = load_networks(policy_path, None, make_settings())
    assert RolloutPolicy(models.policy, bf16=False).current() is models.policy


def test_a_bfloat16_rollout_copy_follows_the_policy(policy_path: Path, make_settings: Settings) -> None:
    models, _ = load_networks(policy_path, None, make_settings())
    sampler = RolloutPolicy(models.policy, bf16=True)
    with torch.no_grad():
        models.policy.get_parameter("lm_head.weight").fill_(0.5)
    weight = sampler.current().get_parameter("lm_head.weight")
    assert weight.dtype == torch.bfloat16
    assert torch.equal(weight.float(), models.policy.get_parameter("lm_head.weight"))


def test_precision_follows_the_setting_and_is_single_for_tiny_models(
    policy_path: Path, make_settings: Settings
) -> None:
    models, _ = load_networks(policy_path, None, make_settings())
    assert uses_bf16("bf16", models.policy)
    assert not uses_bf16("fp32", models.policy)
    assert not uses_bf16("auto", models.policy)


def test_bfloat16_passes_stay_near_single_precision(
    policy_path: Path, reward_path: Path, make_settings: Settings
) -> None:
    exact, _ = load_networks(policy_path, reward_path, make_settings())
    rough, _ = load_networks(policy_path, reward_path, make_settings(precision="bf16"))
    batch = collate(PAIRS, exact.device)
    one, other = exact.predict(batch), rough.predict(batch)
    assert other.log_probs is not None
    assert other.log_probs.dtype == torch.float32
    torch.testing.assert_close(one.log_probs, other.log_probs, atol=0.1, rtol=0.05)
    torch.testing.assert_close(one.values, other.values, atol=0.1, rtol=0.05)
