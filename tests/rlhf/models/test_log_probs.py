"""Log-probabilities against one plain forward pass for each sequence."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM, PreTrainedModel

from rlhf.models import log_probs
from rlhf.models.length_buckets import length_buckets
from rlhf.models.log_probs import (
    collate,
    completion_log_probs,
    score_completions,
    token_entropy,
    token_log_probs,
)

PAIRS = [([5, 6, 7], [8, 9]), ([4], [5, 6, 7, 8, 1]), ([9, 9, 9, 9], [1]), ([3, 0], [0, 1, 1])]


def _plain(model: PreTrainedModel, prompt: list[int], completion: list[int]) -> torch.Tensor:
    with torch.no_grad():
        log_probs = model(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
    return torch.stack([log_probs[len(prompt) - 1 + i, token] for i, token in enumerate(completion)])


@pytest.mark.parametrize("budget", [1, 16, 10_000])
def test_they_equal_a_plain_forward_pass_whatever_the_batching(llama: LlamaForCausalLM, budget: int) -> None:
    found = completion_log_probs(llama, PAIRS, token_budget=budget)
    for (prompt, completion), values in zip(PAIRS, found, strict=True):
        torch.testing.assert_close(values, _plain(llama, prompt, completion), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("model_type", ["gemma2", "granite", "cohere"])
def test_heads_that_scale_or_cap_their_logits_are_run_by_the_model_itself(model_type: str) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        model_type, vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, pad_token_id=0,
        num_attention_heads=2, num_key_value_heads=2, head_dim=8, bos_token_id=1, eos_token_id=2,
        initializer_range=0.5,
    )  # fmt: skip
    if model_type == "granite":
        config.logits_scaling = 4.0
    model = AutoModelForCausalLM.from_config(config).eval()
    for (prompt, completion), values in zip(PAIRS, completion_log_probs(model, PAIRS), strict=True):
        torch.testing.assert_close(values, _plain(model, prompt, completion), atol=1e-4, rtol=1e-4)


def test_what_is_a_completion_follows_from_lengths_even_if_its_tokens_are_pads() -> None:
    batch = collate([([3, 0], [0, 0]), ([4], [0, 5, 6, 0])], torch.device("cpu"))
    assert batch.targets.tolist() == [0, 0, 0, 5, 6, 0]
    assert batch.sizes == [2, 4]
    assert batch.predicts.tolist() == [[False, True, True, False, False], [True, True, True, True, False]]


def test_buckets_hold_every_index_once_and_pad_within_the_budget() -> None:
    lengths = [7, 2, 30, 5, 5, 1]
    batches = length_buckets(lengths, 12)
    assert sorted(i for b in batches for i in b) == list(range(6))
    assert all(len(b) * max(lengths[i] for i in b) <= 12 or len(b) == 1 for b in batches)
    assert batches == length_buckets(lengths, 12)


def test_the_gradient_of_log_probabilities_is_cross_entropys_over_several_blocks_of_rows() -> None:
    torch.manual_seed(0)
    states, weight = torch.randn(40, 8), torch.randn(20_000, 8)
    targets, upstream = torch.randint(20_000, (40,)), torch.randn(40)
    found, expected = (states.clone().requires_grad_() for _ in range(2))
    values = token_log_probs(found @ weight.T, targets)
    (values * upstream).sum().backward()
    plain = (expected @ weight.T).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    (plain * upstream).sum().backward()
    torch.testing.assert_close(values, plain)
    torch.testing.assert_close(found.grad, expected.grad, atol=1e-5, rtol=1e-4)


def test_log_probabilities_and_entropy_share_logits_in_one_backward_pass() -> None:
    torch.manual_seed(0)
    states, weight, targets = torch.randn(6, 4), torch.randn(9, 4), torch.randint(9, (6,))
    found, expected = (states.clone().requires_grad_() for _ in range(2))
    logits = found @ weight.T
    (token_log_probs(logits, targets).sum() + token_entropy(logits).sum()).backward()
    log_probs = (expected @ weight.T).log_softmax(-1)
    (log_probs.gather(1, targets[:, None]).sum() - (log_probs.exp() * log_probs).sum()).backward()
    torch.testing.assert_close(found.grad, expected.grad)


def test_a_second_backward_pass_over_overwritten_logits_is_an_error() -> None:
    states = torch.randn(3, 4, requires_grad=True)
    value = token_log_probs(states @ torch.randn(4, 5), torch.tensor([0, 1, 2])).sum()
    value.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("entropy", [False, True])
def test_logits_too_large_to_keep_are_computed_again_for_the_same_values_and_gradients(
    llama: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch, entropy: bool, autocast: bool
) -> None:
    vocabulary = llama.config.vocab_size
    batch = collate(PAIRS, torch.device("cpu"))
    upstream = torch.randn(2, len(batch.targets), generator=torch.Generator().manual_seed(0))
    largest = []
    real = torch.nn.functional.linear

    def linear(given: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        if weight.shape[0] == vocabulary:
            largest[-1] = max(largest[-1], len(given))
        return real(given, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    found = []
    for limit in (2**25, 8 * vocabulary):
        monkeypatch.setattr(log_probs, "_KEPT_LOGITS", limit)
        largest.append(0)
        llama.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            values, entropies, _ = score_completions(llama, batch, temperature=0.7, entropy=entropy)
        scores = [values] if entropies is None else [values, entropies]
        assert len(scores) == 1 + entropy
        sum((score * weight).sum() for score, weight in zip(scores, upstream, strict=False)).backward()  # type: ignore[union-attr]
        gradients = [p.grad.clone() for p in llama.parameters() if p.grad is not None]
        found.append([*(score.detach() for score in scores), *gradients])
    assert largest == [len(batch.targets), 2]
    for kept, again in zip(*found, strict=True):
        assert float((again - kept).norm() / kept.norm()) < (0.02 if autocast else 1e-5)
