"""The losses against their definitions."""

import numpy as np
import pytest
import torch

from rlhf.training.ppo.losses import importance_weights, policy_loss, value_loss


def _gradient(ratio: float, advantage: float, **options: float) -> float:
    log_prob = torch.tensor([np.log(ratio)], requires_grad=True)
    policy_loss(log_prob, torch.zeros(1), torch.tensor([advantage]), **options).loss.sum().backward()
    assert log_prob.grad is not None
    return float(log_prob.grad)


@pytest.mark.parametrize(("ratio", "advantage"), [(1.21, 1.0), (3.0, 2.0), (0.79, -1.0), (0.1, -2.0)])
def test_the_gradient_is_exactly_0_where_the_ratio_is_clipped(ratio: float, advantage: float) -> None:
    assert _gradient(ratio, advantage) == 0.0


@pytest.mark.parametrize(("ratio", "advantage"), [(1.1, 1.0), (0.5, 1.0), (1.5, -1.0), (0.9, -1.0)])
def test_elsewhere_it_is_minus_ratio_times_advantage(ratio: float, advantage: float) -> None:
    assert _gradient(ratio, advantage) == pytest.approx(-ratio * advantage, rel=1e-6)


def test_a_higher_upper_bound_lets_improbable_tokens_rise_further() -> None:
    assert _gradient(1.25, 1.0) == 0.0
    assert _gradient(1.25, 1.0, clip_range_upper=0.28) == pytest.approx(-1.25, rel=1e-6)


def test_the_dual_clip_bounds_the_loss_of_negative_advantages_only() -> None:
    assert _gradient(4.0, -1.0, dual_clip=3.0) == 0.0
    assert _gradient(2.0, -1.0, dual_clip=3.0) == pytest.approx(2.0, rel=1e-6)
    assert _gradient(0.5, 1.0, dual_clip=3.0) == pytest.approx(-0.5, rel=1e-6)


def test_clipped_tokens_are_reported_and_the_kl_is_0_without_movement() -> None:
    old = torch.zeros(3)
    new = torch.tensor([0.0, 1.0, 1.0])
    found = policy_loss(new, old, torch.tensor([1.0, 1.0, -1.0]))
    assert found.clipped.tolist() == [False, True, False]
    assert found.kl.tolist() == pytest.approx([0.0, np.e - 2, np.e - 2], rel=1e-5)


def test_an_extreme_ratio_stays_finite() -> None:
    found = policy_loss(torch.tensor([400.0]), torch.tensor([-400.0]), torch.tensor([-1.0]))
    assert torch.isfinite(found.loss).all()


def test_the_value_loss_equals_numpy_with_and_without_clip() -> None:
    draw = np.random.default_rng(0)
    values, old, returns = (draw.normal(size=50) for _ in range(3))
    near = old + np.clip(values - old, -0.2, 0.2)
    tensors = [torch.tensor(x) for x in (values, old, returns)]
    np.testing.assert_allclose(
        value_loss(*tensors).numpy(), 0.5 * np.maximum((values - returns) ** 2, (near - returns) ** 2)
    )
    np.testing.assert_allclose(value_loss(*tensors, clip_range=None).numpy(), 0.5 * (values - returns) ** 2)


def test_importance_weights_are_1_for_equal_engines_and_capped_otherwise() -> None:
    log_probs = torch.randn(20)
    assert torch.equal(importance_weights(log_probs, log_probs), torch.ones(20))
    found = importance_weights(torch.tensor([0.0, 0.0]), torch.tensor([-3.0, 0.5]), cap=2.0)
    assert found.tolist() == pytest.approx([2.0, np.exp(-0.5)])
