"""What is made of rollouts before learning."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from rlhf.errors import TrainingError
from rlhf.models.chat import Prompt
from rlhf.models.generation import Completion, generate
from rlhf.models.reward_protocol import Reward, is_shardable
from rlhf.models.rewards import EnsembleReward, MixReward
from rlhf.training.ppo.actor_critic import load_networks
from rlhf.training.ppo.advantages import ScoreScaler
from rlhf.training.ppo.batching import update_plan
from rlhf.training.ppo.rollout import (
    Estimates,
    Rollouts,
    build_experience,
    estimate,
    score_rows,
    shaped_scores,
)
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.processes import OneProcess

Settings = Callable[..., PPOSettings]


def _completion(ids: list[int], *, finished: bool, prompt: tuple[int, ...] = (3, 4)) -> Completion:
    return Completion(prompt, tuple(ids), "", tuple(-0.5 for _ in ids), finished)


def test_a_truncated_completion_gets_the_penalty_and_a_finished_one_its_score(
    make_settings: Settings,
) -> None:
    rollouts = Rollouts(
        ["a"] * 3,
        [
            _completion([5, 2], finished=True),
            _completion([5, 6], finished=False),
            _completion([2], finished=True),
        ],
    )
    scaler = ScoreScaler()
    found, clipped = shaped_scores(rollouts, [2.0, 50.0, 4.0], scaler, make_settings(missing_eos_penalty=1.5))
    deviation = 2.0**0.5  # of 2 and 4: the replaced score counts for nothing
    assert found.tolist() == pytest.approx([2.0 / deviation, -1.5, 4.0 / deviation])
    assert (scaler.count, clipped) == (2, 0)


def test_without_a_penalty_a_truncated_completion_keeps_its_score(make_settings: Settings) -> None:
    rollouts = Rollouts(["a"], [_completion([5, 6], finished=False)])
    settings = make_settings(missing_eos_penalty=None, scale_scores=False)
    assert shaped_scores(rollouts, [3.0], ScoreScaler(), settings)[0].tolist() == [3.0]


def test_scores_are_clipped_after_scaling_and_counted(make_settings: Settings) -> None:
    rollouts = Rollouts(["a"] * 2, [_completion([2], finished=True)] * 2)
    settings = make_settings(scale_scores=False, score_clip=10.0)
    found, clipped = shaped_scores(rollouts, [-11.0, 9.0], ScoreScaler(), settings)
    assert (found.tolist(), clipped) == ([-10.0, 9.0], 1)


def test_the_score_lands_on_eos_even_when_the_pad_token_is_eos(make_settings: Settings) -> None:
    eos = 2  # the same id would pad the shorter row: only lengths may decide what is real
    rollouts = Rollouts(
        ["a", "b"], [_completion([5, eos], finished=True), _completion([5, 6, 7, eos], finished=True)]
    )
    zeros = torch.zeros(2, 4)
    experience = build_experience(
        rollouts,
        Estimates(zeros, zeros, zeros, zeros),
        torch.tensor([1.0, 2.0]),
        make_settings(gae_lambda=0.0, whiten_advantages=False),
        kl_coefficient=0.1,
        other_engine=False,
    )
    assert experience.mask.tolist() == [[True, True, False, False], [True] * 4]
    assert experience.advantages.tolist() == [[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 2.0]]


def test_estimates_are_0_outside_of_the_mask_and_do_not_depend_on_the_micro_batches(
    policy_path: Path, reward_path: Path, make_settings: Settings, prompts: list[str]
) -> None:
    settings = make_settings()
    models, tokenizer = load_networks(policy_path, reward_path, settings)
    rollouts = Rollouts(prompts, generate(models.policy, tokenizer, prompts, settings.generation, seed=0))
    assert len({len(c.token_ids) for c in rollouts.completions}) > 1
    found = []
    for budget in (10_000, 1):
        plan = update_plan(rollouts.lengths, epochs=1, mini_batches=1, token_budget=budget, seed=0)
        found.append(estimate(models, rollouts, plan[0]))
    for name in vars(found[0]):
        one, other = (getattr(f, name) for f in found)
        torch.testing.assert_close(one, other)
        assert float(one[~rollouts.mask].abs().sum()) == 0.0


def test_the_kl_penalty_is_0_while_the_policy_is_the_reference(
    policy_path: Path, make_settings: Settings, prompts: list[str]
) -> None:
    settings = make_settings()
    models, tokenizer = load_networks(policy_path, None, settings)
    rollouts = Rollouts(prompts, generate(models.policy, tokenizer, prompts, settings.generation, seed=0))
    plan = update_plan(rollouts.lengths, epochs=1, mini_batches=2, token_budget=64, seed=0)
    found = estimate(models, rollouts, plan[0])
    assert torch.equal(found.log_probs, found.reference_log_probs)


def test_importance_weights_are_1_unless_another_engine_sampled(make_settings: Settings) -> None:
    rollouts = Rollouts(["a"], [_completion([5, 2], finished=True)])
    estimates = Estimates(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2))
    weights = [
        build_experience(
            rollouts, estimates, torch.ones(1), make_settings(), kl_coefficient=0.0, other_engine=other
        ).weights
        for other in (False, True)
    ]
    assert weights[0].tolist() == [[1.0, 1.0]]
    assert weights[1].tolist()[0] == pytest.approx([math.exp(0.5)] * 2)


class _Share(OneProcess):
    """One of two processes, which sees its own part of a sum."""

    count = 2

    def __init__(self, rank: int) -> None:
        self.rank = rank


class _Counting:
    """Scores a completion by the number of rows it is asked for together with."""

    def __init__(self, shardable: bool, broken: str = "") -> None:
        self.shardable = shardable
        self._broken = broken

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return [math.nan if text == self._broken else float(len(completions)) for text in completions]


def _scored(reward: Reward) -> list[list[float]]:
    """Each of two processes' part of the scores of five completions."""
    texts = ["a", "b", "c", "d", "e"]
    return [score_rows(reward, texts, texts, _Share(rank), name="the reward") for rank in (0, 1)]


def test_a_reward_that_may_compare_rows_sees_the_whole_batch_on_one_process() -> None:
    assert _scored(_Counting(shardable=False)) == [[5.0] * 5, [0.0] * 5]


def test_a_reward_that_says_its_rows_are_independent_is_shared_by_the_processes() -> None:
    assert _scored(_Counting(shardable=True)) == [[3.0, 0.0, 3.0, 0.0, 3.0], [0.0, 2.0, 0.0, 2.0, 0.0]]


@pytest.mark.parametrize("inner", [False, True])
def test_a_score_that_is_not_finite_is_named_by_its_place_in_the_whole_batch(inner: bool) -> None:
    reward: Reward = _Counting(shardable=True, broken="d")
    if inner:  # it checks the scores of its parts itself
        reward = MixReward([reward], [1.0])
    with pytest.raises(TrainingError, match=r"nan for sample 3 \(prompt 'd'\)"):
        _scored(reward)


def test_a_mix_is_shared_only_if_all_its_parts_may_be() -> None:
    shared, whole = _Counting(shardable=True), _Counting(shardable=False)
    assert is_shardable(EnsembleReward([shared, shared]))
    assert not is_shardable(MixReward([shared, whole], [1.0, 1.0]))
    assert not is_shardable(lambda prompts, completions: [0.0 for _ in prompts])
