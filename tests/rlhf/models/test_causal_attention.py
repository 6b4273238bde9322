"""The bfloat16 attention for CPU against the fused one."""

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

from rlhf.models.causal_attention import attend_short_causal, needs_no_mask
from rlhf.models.log_probs import LINEAR_HEAD_ARCHITECTURES


@pytest.mark.parametrize("length", [1, 2, 17])
def test_its_output_and_gradient_are_those_of_the_fused_kernel(llama: LlamaForCausalLM, length: int) -> None:
    ids = torch.randint(3, 300, (3, length), generator=torch.Generator().manual_seed(0))
    found = []
    for own in (True, False):
        model = copy.deepcopy(llama)
        if own:
            attend_short_causal(model)
            assert model.config._attn_implementation != "sdpa"
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(ids).logits.float()
        logits.square().sum().backward()
        found.append((logits.detach(), model.model.layers[0].self_attn.v_proj.weight.grad))
    (logits, gradient), (expected, expected_gradient) = found
    assert gradient is not None
    assert expected_gradient is not None
    torch.testing.assert_close(logits, expected, atol=0.02, rtol=0.05)
    assert float((gradient - expected_gradient).norm() / expected_gradient.norm()) < 0.05


def test_single_precision_and_padded_batches_are_left_to_the_fused_kernel(llama: LlamaForCausalLM) -> None:
    ids = torch.randint(3, 300, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    other = copy.deepcopy(llama)
    attend_short_causal(other)
    with torch.no_grad():
        assert torch.equal(other(ids).logits, llama(ids).logits)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(other(ids, attention_mask=mask).logits, llama(ids, attention_mask=mask).logits)


@pytest.mark.parametrize("kind", sorted(LINEAR_HEAD_ARCHITECTURES))
def test_a_decoder_that_needs_no_mask_says_the_same_at_real_tokens_without_one(kind: str) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        **({"ffn_dim": 48} if kind == "opt" else {} if kind == "gpt2" else {"intermediate_size": 48}),
        pad_token_id=0,
        eos_token_id=1,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    assert needs_no_mask(model)
    ids = torch.randint(3, 60, (3, 11))
    mask = (torch.arange(11) < torch.tensor([[11], [7], [4]])).long()
    ids[mask == 0] = 0
    with torch.no_grad():
        masked, free = model(ids, attention_mask=mask).logits, model(ids).logits
    torch.testing.assert_close(free[mask == 1], masked[mask == 1], atol=1e-5, rtol=1e-5)
