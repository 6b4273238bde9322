"""Advantages against brute force, under padding."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.training.ppo.advantages import (
    ScoreScaler,
    explained_variance,
    generalised_advantages,
    token_rewards,
    whiten,
)


def _ragged(seed: int, rows: int = 5, width: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, width + 1, (rows,), generator=generator)
    mask = torch.arange(width) < lengths[:, None]
    rewards, values = (torch.randn(rows, width, generator=generator) for _ in range(2))
    return rewards * mask, values, mask


@pytest.mark.parametrize(("discount", "gae_lambda"), [(1.0, 0.95), (0.9, 0.5), (1.0, 0.0)])
def test_advantages_equal_the_sum_of_discounted_errors(discount: float, gae_lambda: float) -> None:
    rewards, values, mask = _ragged(0)
    advantages, returns = generalised_advantages(
        rewards, values, mask, discount=discount, gae_lambda=gae_lambda
    )
    for row in range(len(mask)):
        length = int(mask[row].sum())
        value = [*values[row, :length].tolist(), 0.0]
        errors = [float(rewards[row, t]) + discount * value[t + 1] - value[t] for t in range(length)]
        for t in range(length):
            expected = sum((discount * gae_lambda) ** k * e for k, e in enumerate(errors[t:]))
            assert float(advantages[row, t]) == pytest.approx(expected, abs=1e-5)
            assert float(returns[row, t]) == pytest.approx(expected + value[t], abs=1e-5)


def test_with_lambda_1_the_advantage_is_the_return_minus_the_value() -> None:
    rewards, values, mask = _ragged(1)
    advantages, _ = generalised_advantages(rewards, values, mask, discount=1.0, gae_lambda=1.0)
    to_go = rewards.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(advantages[mask], (to_go - values)[mask])


def test_nothing_outside_the_mask_matters_or_is_set() -> None:
    rewards, values, mask = _ragged(2)
    plain = generalised_advantages(rewards, values, mask, discount=1.0, gae_lambda=0.95)
    spoiled = generalised_advantages(
        rewards, torch.where(mask, values, 1e6), mask, discount=1.0, gae_lambda=0.95
    )
    for one, other in zip(plain, spoiled, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one[~mask], torch.zeros_like(one[~mask]))


def test_the_score_lands_on_the_last_real_token_and_the_kl_on_every_one() -> None:
    mask = torch.tensor([[True, True, True], [True, True, False]])
    kl = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 9.0]])
    found = token_rewards(torch.tensor([2.0, -1.0]), kl, mask, 0.5)
    torch.testing.assert_close(found, torch.tensor([[-0.05, -0.1, 1.85], [-0.2, -1.25, 0.0]]))


def test_the_rewards_do_not_depend_on_padding() -> None:
    mask = torch.tensor([[True, True, False]])
    kl = torch.tensor([[0.1, 0.2, 0.0]])
    wide = token_rewards(
        torch.tensor([1.0]),
        torch.nn.functional.pad(kl, (0, 4)),
        torch.nn.functional.pad(mask, (0, 4)),
        0.5,
    )
    assert torch.equal(wide[:, :3], token_rewards(torch.tensor([1.0]), kl, mask, 0.5))
    assert float(wide[:, 3:].abs().sum()) == 0.0


@given(st.lists(st.lists(st.floats(-100, 100), max_size=6), min_size=1, max_size=6))
def test_running_moments_equal_those_of_all_scores_at_once(batches: list[list[float]]) -> None:
    scaler = ScoreScaler()
    for batch in batches:
        scaler.update(batch)
    everything = np.array([s for batch in batches for s in batch])
    assert scaler.count == len(everything)
    if len(everything) >= 2 and everything.std() > 1e-3:
        assert scaler.mean == pytest.approx(everything.mean(), abs=1e-8)
        assert scaler.std == pytest.approx(everything.std(ddof=1), rel=1e-6)


def test_a_single_score_is_not_scaled() -> None:
    scaler = ScoreScaler()
    scaler.update([3.0])
    assert scaler.std == 1.0


def test_whitened_values_have_mean_0_and_deviation_1_under_the_mask_alone() -> None:
    values, _, mask = _ragged(3)
    found = whiten(torch.where(mask, values * 5 + 2, 1e6), mask)
    assert float(found[mask].mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(found[mask].std(unbiased=False)) == pytest.approx(1.0, abs=1e-5)
    assert float(found[~mask].abs().sum()) == 0.0


def test_whitening_a_constant_gives_zeros_and_not_nan() -> None:
    mask = torch.ones(2, 3, dtype=torch.bool)
    assert torch.equal(whiten(torch.full((2, 3), 4.0), mask), torch.zeros(2, 3))


def test_explained_variance_is_1_for_a_perfect_critic_and_ignores_pads() -> None:
    _, returns, mask = _ragged(4)
    assert explained_variance(torch.where(mask, returns, 50.0), returns, mask) == pytest.approx(1.0)
    assert explained_variance(torch.full_like(returns, 3.0), returns, mask) == pytest.approx(0.0, abs=1e-6)
