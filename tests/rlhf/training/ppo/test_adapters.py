"""PPO with adapters: what is trained, kept and delivered, and that the base stays as it was."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, TaskType, inject_adapter_in_model
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlhf.errors import ConfigError
from rlhf.models.chat import Prompt
from rlhf.models.loading import load_policy
from rlhf.models.log_probs import collate, completion_log_probs
from rlhf.models.reward_classifiers import RewardModelReward
from rlhf.models.saving import save_model
from rlhf.tracking import NullSink
from rlhf.training.ppo.actor_critic import ActorCritic, MovingAverage, RolloutPolicy, load_networks
from rlhf.training.ppo.adapters import merged_weights
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.ppo.trainer import PPOTrainer, train_ppo

PAIRS = [([3, 4, 5], [6, 7, 2]), ([8], [9, 10, 11, 12, 2]), ([3, 9], [2])]
LORA = {"rank": 4, "alpha": 8}
Settings = Callable[..., PPOSettings]
Trainer = Callable[..., PPOTrainer]


def short(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
    """Likes short completions."""
    return [-float(len(c)) for c in completions]


@pytest.fixture
def lora(make_settings: Settings) -> Settings:
    def make(**changes: object) -> PPOSettings:
        return make_settings(**{"lora": LORA, **changes})

    return make


@pytest.fixture
def trainer(policy_path: Path, lora: Settings, prompts: list[str], tmp_path: Path) -> Trainer:
    def build(name: str = "out", /, **options: object) -> PPOTrainer:
        given = {
            "policy": policy_path,
            "reward": short,
            "prompts": prompts,
            "settings": lora(),
            "output_dir": tmp_path / name,
            "sink": NullSink(),
            **options,
        }
        return PPOTrainer(**given)  # type: ignore[arg-type]

    return build


def _move(models: ActorCritic) -> None:
    """Give the policy's adapter an effect."""
    with torch.no_grad():
        for index, parameter in enumerate(models.policy_parameters().values()):
            parameter.add_(
                0.1 * torch.linspace(-1, 1, parameter.numel()).view_as(parameter) * (1 + index % 3)
            )


def _base(models: ActorCritic) -> dict[str, torch.Tensor]:
    """All frozen weights, by name."""
    found = {}
    for owner, model in (("policy", models.policy), ("critic", models.critic)):
        for name, parameter in [] if model is None else model.named_parameters():
            if not parameter.requires_grad:
                found[f"{owner}.{name}"] = parameter.detach().clone()
    return found


def test_a_fresh_adapter_changes_no_log_probability_and_the_reference_never_moves(
    policy_path: Path, make_settings: Settings, lora: Settings
) -> None:
    full, _ = load_networks(policy_path, None, make_settings())
    models, _ = load_networks(policy_path, None, lora())
    batch = collate(PAIRS, models.device)
    expected = full.predict(batch).log_probs
    start = models.predict(batch).log_probs
    assert start is not None
    assert torch.equal(start, expected)
    assert torch.equal(start, models.reference_log_probs(batch))
    _move(models)
    assert not torch.equal(start, models.predict(batch).log_probs)
    assert torch.equal(start, models.reference_log_probs(batch))
    assert models.predict(batch).log_probs.requires_grad  # type: ignore[union-attr]


def test_the_reference_is_no_second_model(policy_path: Path, lora: Settings) -> None:
    models, _ = load_networks(policy_path, None, lora())
    with models.reference_policy() as reference:
        assert reference is models.policy


def test_a_critic_that_starts_from_the_policy_shares_its_frozen_weights(
    policy_path: Path, lora: Settings, make_settings: Settings
) -> None:
    models, _ = load_networks(policy_path, None, lora())
    assert models.critic is not None
    ours = {p.data_ptr() for p in models.policy.parameters() if not p.requires_grad}
    theirs = {p.data_ptr() for p in models.critic.base_model.parameters() if not p.requires_grad}
    assert theirs <= ours
    batch = collate(PAIRS, models.device)
    before = models.predict(batch).values
    _move(models)  # its own adapter is another one
    assert torch.equal(models.predict(batch).values, before)  # type: ignore[arg-type]
    full, _ = load_networks(policy_path, None, make_settings())
    assert full.critic is not None
    full_policy = {p.data_ptr() for p in full.policy.parameters()}
    assert not full_policy & {p.data_ptr() for p in full.critic.parameters()}


def test_with_an_adapter_the_critics_value_at_eos_still_starts_at_the_reward_models_score(
    policy_path: Path, reward_path: Path, lora: Settings, tokenizer: PreTrainedTokenizerBase
) -> None:
    models, _ = load_networks(policy_path, reward_path, lora())
    ids = [*tokenizer("a b c")["input_ids"], *tokenizer("f g")["input_ids"], tokenizer.eos_token_id]
    value = models.predict(collate([(ids, [3])], models.device)).values
    assert value is not None
    assert value.item() == pytest.approx(RewardModelReward(reward_path)(["a b c"], [" f g"])[0], abs=1e-5)


@pytest.mark.parametrize("critic", ["separate", "shared"])
def test_updates_move_adapters_and_head_and_not_a_bit_of_the_base(
    trainer: Trainer, lora: Settings, critic: str
) -> None:
    run = trainer(settings=lora(critic=critic))
    models = run.models
    base = _base(models)
    values = {n: p.detach().clone() for n, p in models.value_parameters().items()}
    policy = {n: p.detach().clone() for n, p in models.policy_parameters().items()}
    run.train()
    after = _base(models)
    assert base.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in base.items())
    assert all("lora_" in name for name in policy)
    assert all(not torch.equal(p, policy[n]) for n, p in models.policy_parameters().items())
    heads = [name for name in values if "lora_" not in name]
    assert len(heads) == (1 if critic == "separate" else len(values))
    assert all(not torch.equal(p, values[n]) for n, p in models.value_parameters().items())


def test_checkpoints_and_the_average_hold_adapters_and_heads_only(
    trainer: Trainer, lora: Settings, tmp_path: Path, reward_path: Path
) -> None:
    run = trainer(settings=lora(ema_decay=0.5), critic=reward_path)
    run.train()
    checkpoint = tmp_path / "out/checkpoints/update-00000004"
    for file in checkpoint.glob("*.safetensors"):
        for name in load_file(file):
            assert "lora_" in name or "score" in name, f"{file.name}: {name}"
    assert load_file(checkpoint / "policy.safetensors").keys() == run.models.policy_parameters().keys()
    assert load_file(checkpoint / "critic.safetensors").keys() == run.models.value_parameters().keys()
    assert load_file(checkpoint / "average.safetensors").keys() == run.models.policy_parameters().keys()


@pytest.mark.parametrize("critic", ["separate", "shared"])
def test_a_run_with_adapters_resumes_bit_for_bit(
    trainer: Trainer, lora: Settings, prompts: list[str], tmp_path: Path, critic: str
) -> None:
    class Killed(NullSink):
        def progress(self, done: int, total: int, note: str = "") -> None:
            if done == 2:
                raise KeyboardInterrupt

    options = {"settings": lora(critic=critic, ema_decay=0.5), "dev_prompts": prompts}
    straight = trainer("straight", **options).train()
    with pytest.raises(KeyboardInterrupt):
        trainer("killed", sink=Killed(), **options).train()
    torch.manual_seed(99)  # new adapters must not depend on the global random state
    resumed = trainer("killed", resume=True, **options).train()
    assert resumed.evaluations == straight.evaluations
    last = "checkpoints/update-00000004"
    for file in sorted((tmp_path / "straight" / last).iterdir()):
        assert file.read_bytes() == (tmp_path / "killed" / last / file.name).read_bytes(), file.name
    delivered = load_file(resumed.policy_path / "model.safetensors")
    for name, tensor in load_file(straight.policy_path / "model.safetensors").items():
        assert torch.equal(tensor, delivered[name])


def test_the_delivered_policy_is_the_one_in_memory(
    trainer: Trainer, lora: Settings, policy_path: Path
) -> None:
    merged, alone = trainer("merged"), trainer("alone", settings=lora(lora={**LORA, "merge": False}))
    full_path, adapter_path = merged.train().policy_path, alone.train().policy_path
    assert not (adapter_path / "model.safetensors").exists()
    assert not (full_path / "adapter_config.json").exists()
    full = AutoModelForCausalLM.from_pretrained(full_path)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(policy_path), adapter_path)
    batch = collate(PAIRS, torch.device("cpu"))
    trained = merged.models.predict(batch).log_probs
    assert trained is not None
    start = merged.models.reference_log_probs(batch)
    assert float((trained - start).detach().abs().max()) > 0.1
    for model in (full, adapted.get_base_model()):
        torch.testing.assert_close(
            torch.cat(completion_log_probs(model, PAIRS)), trained.detach(), atol=1e-5, rtol=1e-5
        )


def test_the_average_runs_over_the_adapter_alone(policy_path: Path, lora: Settings) -> None:
    models, _ = load_networks(policy_path, None, lora())
    average = MovingAverage(models.policy_parameters(), decay=0.75)
    before = {n: p.detach().clone() for n, p in models.policy_parameters().items()}
    _move(models)
    average.update()
    assert average.weights.keys() == models.policy_parameters().keys()
    for name, parameter in models.policy_parameters().items():
        torch.testing.assert_close(average.weights[name], 0.75 * before[name] + 0.25 * parameter.detach())


def test_a_policy_that_is_an_adapter_itself_is_merged_with_its_base(
    trainer: Trainer,
    lora: Settings,
    make_settings: Settings,
    policy_path: Path,
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
) -> None:
    torch.manual_seed(5)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM, r=2, target_modules="all-linear", init_lora_weights=False
    )
    tuned = PeftModel(AutoModelForCausalLM.from_pretrained(policy_path), config)
    save_model(tuned, tokenizer, tmp_path / "sft", kind="adapter", settings={}, metrics={})
    full, _ = load_networks(tmp_path / "sft", None, make_settings(), policy_base=policy_path)
    assert full.policy_parameters().keys() == dict(full.policy.named_parameters()).keys()
    run = trainer(policy=tmp_path / "sft", policy_base=policy_path)
    start = torch.cat(completion_log_probs(load_policy(tmp_path / "sft", base=policy_path), PAIRS))
    assert torch.equal(run.models.reference_log_probs(collate(PAIRS, run.models.device)), start)
    result = run.train()
    trained = run.models.predict(collate(PAIRS, run.models.device)).log_probs
    assert trained is not None
    delivered = AutoModelForCausalLM.from_pretrained(result.policy_path)
    torch.testing.assert_close(
        torch.cat(completion_log_probs(delivered, PAIRS)), trained.detach(), atol=1e-5, rtol=1e-5
    )
    with pytest.raises(ConfigError, match=r"ppo\.lora\.merge"):
        trainer(
            "other",
            policy=tmp_path / "sft",
            policy_base=policy_path,
            settings=lora(lora={**LORA, "merge": False}),
        )


def test_a_bfloat16_rollout_copy_follows_the_adapter(policy_path: Path, lora: Settings) -> None:
    models, _ = load_networks(policy_path, None, lora())
    sampler = RolloutPolicy(models.policy, bf16=True)
    _move(models)
    copied = dict(sampler.current().named_parameters())
    for name, parameter in models.policy.named_parameters():
        assert torch.equal(copied[name], parameter.bfloat16()), name


def test_a_module_that_the_policy_does_not_have_is_a_clear_error(policy_path: Path, lora: Settings) -> None:
    with pytest.raises(ConfigError, match=r"ppo\.lora\.target_modules"):
        load_networks(policy_path, None, lora(lora={**LORA, "target_modules": ["c_attn"]}))


def test_ppo_learns_with_an_adapter(
    policy_path: Path, lora: Settings, prompts: list[str], tmp_path: Path
) -> None:
    settings = lora(updates=8, rollout_batch_size=32, kl_coefficient=0.0, critic="shared")
    found = train_ppo(
        policy_path, short, prompts, settings, output_dir=tmp_path / "out", dev_prompts=prompts * 4
    ).evaluations
    assert found[-1].reward > found[0].reward + 2.0


def _with_adapter(policy: Path, *modules: str) -> PreTrainedModel:
    model = load_policy(policy)
    model.add_adapter(LoraConfig(r=2, target_modules=list(modules), init_lora_weights=False))
    return model


def test_merged_weights_give_the_adapted_policys_logits_with_adapters_on_embeddings_too(
    policy_path: Path,
) -> None:
    adapted, plain = _with_adapter(policy_path, "embed_tokens", "q_proj", "lm_head"), load_policy(policy_path)
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        before = plain(ids).logits
        plain.load_state_dict(merged_weights(adapted))
        torch.testing.assert_close(plain(ids).logits, adapted(ids).logits)
        assert not torch.allclose(plain(ids).logits, before)


def test_an_adapter_on_a_weight_that_two_modules_share_is_refused(small_config: LlamaConfig) -> None:
    small_config.tie_word_embeddings = True
    model = LlamaForCausalLM(small_config)
    model.add_adapter(LoraConfig(r=2, target_modules=["embed_tokens"]))
    with pytest.raises(ConfigError, match=r"the adapter on 'model\.embed_tokens' cannot be added"):
        merged_weights(model)


@pytest.mark.parametrize("more", [{"use_dora": True}, {"lora_bias": True}])
def test_an_adapter_that_is_more_than_a_low_rank_product_is_refused(
    small_config: LlamaConfig, more: dict[str, bool]
) -> None:
    small_config.attention_bias = True
    model = LlamaForCausalLM(small_config)
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"], **more))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"q_proj' cannot be added"):
        merged_weights(model)


def test_an_adapter_on_a_kind_of_module_that_is_not_known_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3))
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["0"]), model)
    with pytest.raises(ConfigError, match="'0' cannot be added"):
        merged_weights(model)
