"""One update's gradients and steps."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlhf.models.generation import generate
from rlhf.models.log_probs import token_entropy
from rlhf.training.ppo.actor_critic import ActorCritic, load_networks
from rlhf.training.ppo.batching import MiniBatch, update_plan
from rlhf.training.ppo.learner import Learner, NonFiniteLossError, learning_rate_factor
from rlhf.training.ppo.rollout import Experience, Rollouts, build_experience, estimate
from rlhf.training.ppo.settings import PPOSettings

Settings = Callable[..., PPOSettings]
Plan = list[list[MiniBatch]]
Setup = Callable[..., tuple[ActorCritic, Learner, Rollouts, Experience, Plan]]


@pytest.fixture
def set_up(policy_path: Path, reward_path: Path, make_settings: Settings, prompts: list[str]) -> Setup:
    def build(**changes: object) -> tuple[ActorCritic, Learner, Rollouts, Experience, Plan]:
        settings = make_settings(**changes)
        critic = reward_path if settings.critic == "separate" else None
        models, tokenizer = load_networks(policy_path, critic, settings)
        completions = generate(models.policy, tokenizer, prompts, settings.generation, seed=0)
        rollouts = Rollouts(prompts, completions)
        plan = update_plan(
            rollouts.lengths,
            epochs=settings.epochs,
            mini_batches=settings.mini_batches,
            token_budget=settings.micro_batch_tokens,
            seed=0,
        )
        experience = build_experience(
            rollouts,
            estimate(models, rollouts, plan[0]),
            torch.linspace(-1, 1, len(prompts)),
            settings,
            kl_coefficient=0.05,
            other_engine=False,
        )
        return models, Learner(models, settings), rollouts, experience, plan

    return build


def _gradients(learner: Learner) -> dict[str, torch.Tensor]:
    return {
        name: p.grad.clone()
        for group in learner.groups
        for name, p in group.parameters.items()
        if p.grad is not None
    }


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_ratio_is_exactly_1_at_the_first_optimizer_step(set_up: Setup, precision: str) -> None:
    _, learner, rollouts, experience, plan = set_up(precision=precision, micro_batch_tokens=40)
    assert len(plan[0][0].micro_batches) > 1
    figures = learner.accumulate(rollouts, experience, plan[0][0])
    assert figures["approx_kl"] == 0.0
    assert figures["clip_fraction"] == 0.0


@pytest.mark.parametrize("critic", ["separate", "shared"])
@pytest.mark.parametrize("budget", [1, 30])
def test_the_gradient_is_the_same_for_any_micro_batch_size(set_up: Setup, critic: str, budget: int) -> None:
    _, learner, rollouts, experience, plan = set_up(critic=critic, mini_batches=1, epochs=1)
    assert len(plan[0][0].micro_batches) == 1
    learner.accumulate(rollouts, experience, plan[0][0])
    whole = _gradients(learner)
    _, learner, rollouts, _, plan = set_up(critic=critic, mini_batches=1, epochs=1, micro_batch_tokens=budget)
    assert len(plan[0][0].micro_batches) > 1
    learner.accumulate(rollouts, experience, plan[0][0])
    cut = _gradients(learner)
    assert whole.keys() == cut.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(cut[name], gradient, rtol=1e-4, atol=1e-6)


def test_pads_have_no_part_in_loss_or_gradient(set_up: Setup) -> None:
    _, learner, rollouts, experience, plan = set_up()
    learner.accumulate(rollouts, experience, plan[0][0])
    plain = _gradients(learner)
    _, learner, rollouts, _, plan = set_up()
    spoiled = Experience(
        experience.mask,
        **{
            name: torch.where(experience.mask, tensor, math.nan)
            for name, tensor in experience.tensors().items()
            if name != "mask"
        },
    )
    learner.accumulate(rollouts, spoiled, plan[0][0])
    for name, gradient in _gradients(learner).items():
        assert torch.equal(gradient, plain[name])


@pytest.mark.parametrize("critic", ["separate", "shared"])
def test_the_critics_warm_up_moves_the_critic_and_leaves_the_actor_alone(set_up: Setup, critic: str) -> None:
    models, learner, rollouts, experience, plan = set_up(
        critic=critic, critic_warmup_updates=1, weight_decay=0.1
    )
    actor = {n: p.detach().clone() for n, p in models.policy.named_parameters()}
    values = {n: p.detach().clone() for n, p in models.value_parameters().items()}
    learner.learn(rollouts, experience, plan, update=1)
    assert all(torch.equal(p, actor[n]) for n, p in models.policy.named_parameters())
    assert any(not torch.equal(p, values[n]) for n, p in models.value_parameters().items())
    learner.learn(rollouts, experience, plan, update=2)
    assert any(not torch.equal(p, actor[n]) for n, p in models.policy.named_parameters())


def test_actor_and_critic_have_learning_rates_of_their_own(set_up: Setup) -> None:
    changes = {"learning_rate": 0.0, "critic_learning_rate": 1e-2}
    models, learner, rollouts, experience, plan = set_up(**changes)
    actor = {n: p.detach().clone() for n, p in models.policy.named_parameters()}
    learner.learn(rollouts, experience, plan, update=1)
    assert all(torch.equal(p, actor[n]) for n, p in models.policy.named_parameters())
    shared, learner, *_ = set_up(critic="shared", **changes)
    rates = [g["base_lr"] for g in learner.groups[0].optimizer.param_groups]
    assert rates == [0.0, 1e-2]
    assert shared.critic is None


def test_each_step_is_taken_with_a_gradient_norm_of_at_most_the_limit(
    set_up: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, learner, rollouts, experience, plan = set_up(max_gradient_norm=1e-3)
    norms: list[float] = []
    for group in learner.groups:
        step = group.optimizer.step

        def observed(group=group, step=step) -> None:  # type: ignore[no-untyped-def]
            norms.append(float(torch.cat([p.grad.flatten() for p in group.parameters.values()]).norm()))
            step()

        monkeypatch.setattr(group.optimizer, "step", observed)
    figures = learner.learn(rollouts, experience, plan, update=1)
    assert figures["grad_norm"] > 1e-3
    assert len(norms) == 2 * 4
    assert max(norms) <= 1e-3 * 1.001


def test_as_many_optimizer_steps_are_taken_as_epochs_times_mini_batches(set_up: Setup) -> None:
    _, learner, rollouts, experience, plan = set_up(epochs=3, mini_batches=4)
    assert learner.learn(rollouts, experience, plan, update=1)["optimizer_steps"] == 12


def test_the_update_stops_before_the_step_that_is_beyond_the_target_kl(set_up: Setup) -> None:
    _, learner, rollouts, experience, plan = set_up(target_kl=1e-6, epochs=4, mini_batches=1)
    figures = learner.learn(rollouts, experience, plan, update=1)
    assert figures["stopped_by_kl"] == 1.0
    assert figures["optimizer_steps"] == 1.0  # the first is always taken: nothing has moved yet
    assert not _gradients(learner)


def test_ptx_adds_its_coefficient_times_the_language_modelling_gradient(set_up: Setup) -> None:
    demonstrations = [([3, 4], [5, 6, 2]), ([7], [8, 2])]
    models, learner, rollouts, experience, plan = set_up()
    learner.accumulate(rollouts, experience, plan[0][0])
    plain = _gradients(learner)
    models, learner, rollouts, _, plan = set_up(ptx_coefficient=0.3)
    learner.accumulate(rollouts, experience, plan[0][0], ptx=demonstrations)
    mixed = _gradients(learner)
    models.policy.zero_grad()
    negative = torch.zeros(())
    for prompt, completion in demonstrations:
        logits = models.policy(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
        for offset, token in enumerate(completion):
            negative = negative - logits[len(prompt) + offset - 1, token]
    (negative / 5).backward()
    for name, parameter in models.policy.named_parameters():
        assert parameter.grad is not None
        expected = plain[f"policy.{name}"] + 0.3 * parameter.grad
        torch.testing.assert_close(mixed[f"policy.{name}"], expected, rtol=1e-4, atol=1e-6)


def test_the_entropy_bonus_raises_entropy(set_up: Setup) -> None:
    models, learner, rollouts, experience, plan = set_up(entropy_coefficient=1.0, learning_rate=1e-3)
    still = replace(experience, advantages=torch.zeros_like(experience.advantages))
    before = estimate(models, rollouts, plan[0]).entropy.sum()
    learner.learn(rollouts, still, plan, update=1)
    assert float(estimate(models, rollouts, plan[0]).entropy.sum()) > float(before)


def test_entropy_is_exact_on_a_small_vocabulary() -> None:
    found = token_entropy(torch.tensor([[0.0, 0.0, 0.0, 0.0], [50.0, 0.0, 0.0, 0.0]]))
    assert found.tolist() == pytest.approx([math.log(4), 0.0], abs=1e-6)


def test_a_kl_loss_pulls_the_policy_towards_the_reference(set_up: Setup) -> None:
    models, learner, rollouts, experience, plan = set_up(
        kl_loss="k2", kl_loss_coefficient=1.0, learning_rate=1e-3
    )
    moved = replace(
        experience,
        advantages=torch.zeros_like(experience.advantages),
        reference_log_probs=experience.log_probs - 1.0 * experience.mask,
    )
    learner.learn(rollouts, moved, plan, update=1)
    after = estimate(models, rollouts, plan[0]).log_probs
    assert float(after.sum()) < float(experience.log_probs.sum())


def test_a_loss_that_is_not_finite_is_raised_before_any_weight_moves(set_up: Setup) -> None:
    models, learner, rollouts, experience, plan = set_up()
    before = {n: p.detach().clone() for n, p in models.policy.named_parameters()}
    bad = replace(experience, advantages=torch.full_like(experience.advantages, math.nan))
    with pytest.raises(NonFiniteLossError, match="policy loss") as caught:
        learner.learn(rollouts, bad, plan, update=1)
    assert caught.value.rows == plan[0][0].rows
    assert all(torch.equal(p, before[n]) for n, p in models.policy.named_parameters())


def test_learning_rates_warm_up_and_decay(make_settings: Settings) -> None:
    settings = make_settings(updates=10, warmup_updates=2, learning_rate_schedule="linear")
    assert [learning_rate_factor(u, settings) for u in (1, 2, 6)] == pytest.approx([0.5, 0.9, 0.5])
    cosine = make_settings(updates=10, learning_rate_schedule="cosine")
    assert learning_rate_factor(6, cosine) == pytest.approx(0.5)
    assert learning_rate_factor(7, make_settings()) == 1.0
