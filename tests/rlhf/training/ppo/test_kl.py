"""KL estimators against the exact divergence on a small vocabulary, and the controllers' formulas."""

from typing import Literal

import pytest
import torch

from rlhf.training.ppo.kl import AdaptiveKLController, FixedKLController, kl_estimate

P = torch.tensor([0.3, -0.4, 1.1, 0.0], dtype=torch.float64)
Q = torch.tensor([-0.2, 0.5, 0.4, 0.9], dtype=torch.float64)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_every_estimate_is_0_when_the_policies_agree(estimator: Literal["k1", "k2", "k3"]) -> None:
    log_probs = torch.randn(10)
    assert torch.equal(kl_estimate(log_probs, log_probs, estimator), torch.zeros(10))


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_are_unbiased(estimator: Literal["k1", "k3"]) -> None:
    p, q = P.log_softmax(0), Q.log_softmax(0)
    exact = (p.exp() * (p - q)).sum()
    torch.testing.assert_close((p.exp() * kl_estimate(p, q, estimator)).sum(), exact)


@pytest.mark.parametrize(("estimator", "towards"), [("k2", "policy"), ("k3", "reference")])
def test_as_a_loss_k2_follows_the_reverse_kl_and_k3_the_forward_kl(
    estimator: Literal["k2", "k3"], towards: str
) -> None:
    logits = P.clone().requires_grad_()
    p, q = logits.log_softmax(0), Q.log_softmax(0)
    # the expectation over samples of the policy, whose own gradient a loss on samples does not see
    (p.exp().detach() * kl_estimate(p, q, estimator)).sum().backward()
    found = logits.grad
    exact_logits = P.clone().requires_grad_()
    p = exact_logits.log_softmax(0)
    exact = (p.exp() * (p - q)).sum() if towards == "policy" else (q.exp() * (q - p)).sum()
    exact.backward()
    torch.testing.assert_close(found, exact_logits.grad)


def test_k3_does_not_overflow() -> None:
    assert torch.isfinite(kl_estimate(torch.tensor([-500.0]), torch.tensor([0.0]), "k3")).all()


@pytest.mark.parametrize(("kl", "error"), [(6.6, 0.1), (60.0, 0.2), (0.0, -0.2), (6.0, 0.0)])
def test_the_adaptive_controller_follows_the_clipped_relative_error(kl: float, error: float) -> None:
    controller = AdaptiveKLController(0.05, target=6.0, horizon=10_000)
    controller.update(kl, samples=64)
    assert controller.coefficient == pytest.approx(0.05 * (1 + error * 64 / 10_000))


def test_the_fixed_controller_stays() -> None:
    controller = FixedKLController(0.05)
    controller.update(100.0, samples=64)
    assert controller.coefficient == 0.05
