"""The sampler against the plain forward pass, and its random numbers."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from rlhf.errors import DataError
from rlhf.models.decoding_cache import (
    FAST_ARCHITECTURES,
    DynamicCacheDecoder,
    TransposedCacheDecoder,
    supports_transposed_cache,
    transposed_attention,
)
from rlhf.models.generation import choose_tokens, generate, generate_from_ids, row_uniforms
from rlhf.models.log_probs import completion_log_probs
from rlhf.models.settings_generation import GenerationSettings

PROMPTS = [
    "Can you help me?",
    "My lamp",
    "order 90210 arrived broken",
    "I am sorry that it is late, please help",
]
LONG = GenerationSettings(max_new_tokens=12)


def tiny(model_type: str, **changes: object) -> PreTrainedModel:
    """A model of two layers with weights large enough for attention to matter."""
    shape: dict[str, object] = {
        "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    if model_type == "gpt_neox":
        del shape["num_key_value_heads"]
    elif model_type == "opt":
        shape |= {"ffn_dim": 48, "word_embed_proj_dim": 32}
    elif model_type == "gpt2":
        shape = {
            "vocab_size": 97,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 64,
            "eos_token_id": 2,
        }
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**shape, **changes})).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0, 0.3)
    return model


def decoded(model: PreTrainedModel, *, fast: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [3, 5, V] by a decoder that drops a row half-way, and by one forward pass for each row."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 97, (3, 9), generator=generator)
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[1, :4] = False
    new = torch.randint(3, 97, (3, 4), generator=generator)
    starts = [0, 4, 0]
    with torch.no_grad():
        expected = torch.stack(
            [model(torch.cat([ids[i, starts[i] :], new[i]])[None]).logits[0, -5:] for i in range(3)]
        )
        decoder = TransposedCacheDecoder(model, 13) if fast else DynamicCacheDecoder(model)
        found = torch.zeros_like(expected)
        alive = torch.arange(3)
        found[:, 0] = decoder.prefill(ids, mask)
        for step in range(4):
            if step == 2:
                alive = torch.tensor([1, 2])
                decoder.keep(alive)
                found[0, 3:] = expected[0, 3:]
            found[alive, step + 1] = decoder.step(new[alive, step])
    return found, expected


@pytest.mark.parametrize("model_type", sorted(FAST_ARCHITECTURES))
def test_the_fast_decoders_logits_equal_the_models(model_type: str) -> None:
    model = tiny(model_type)
    assert supports_transposed_cache(model, 13)
    with transposed_attention(model):
        found, by_the_same_attention = decoded(model, fast=True)
    _, expected = decoded(model, fast=False)  # outside of the block: by the model's own attention
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(found, by_the_same_attention, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("model_type", ["gemma2", "granite", "phi"])
def test_the_general_decoders_logits_equal_the_models(model_type: str) -> None:
    model = tiny(model_type)
    assert not supports_transposed_cache(model, 13)
    found, expected = decoded(model, fast=False)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_a_sliding_window_that_would_be_exceeded_goes_the_general_way() -> None:
    model = tiny("mistral", sliding_window=8)
    assert supports_transposed_cache(model, 8)
    assert not supports_transposed_cache(model, 9)


def test_greedy_completions_equal_the_librarys(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    found = generate(llama, tokenizer, PROMPTS, LONG.model_copy(update={"temperature": 0.0}), seed=0)
    for prompt, completion in zip(PROMPTS, found, strict=True):
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        expected = llama.generate(
            ids, do_sample=False, max_new_tokens=12, attention_mask=torch.ones_like(ids)
        )
        assert list(completion.token_ids) == expected[0, ids.shape[1] :].tolist()


def test_the_models_own_attention_is_back_after_sampling(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    own = llama.config._attn_implementation
    llama.train()
    generate(llama, tokenizer, PROMPTS, LONG, seed=0)
    assert llama.config._attn_implementation == own
    assert llama.training


@pytest.mark.parametrize("batch_size", [1, 3])
def test_completions_do_not_depend_on_the_batching(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, batch_size: int
) -> None:
    whole = generate(llama, tokenizer, PROMPTS, LONG, seed=5)
    cut = generate(llama, tokenizer, PROMPTS, LONG, seed=5, batch_size=batch_size)
    assert [c.token_ids for c in whole] == [c.token_ids for c in cut]


def test_a_rows_completion_depends_on_its_index_and_not_on_its_neighbours(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    alone = generate(llama, tokenizer, PROMPTS[:1], LONG, seed=5)
    among = generate(llama, tokenizer, [*PROMPTS[:1], *["something else"] * 3], LONG, seed=5)
    assert alone[0].token_ids == among[0].token_ids
    assert generate(llama, tokenizer, PROMPTS[:1] * 2, LONG, seed=5)[1].token_ids != alone[0].token_ids
    assert generate(llama, tokenizer, PROMPTS[:1], LONG, seed=6)[0].token_ids != alone[0].token_ids


def test_a_longer_limit_continues_the_same_completion(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    short = generate(llama, tokenizer, PROMPTS, GenerationSettings(max_new_tokens=5), seed=5)
    longer = generate(llama, tokenizer, PROMPTS, LONG, seed=5)
    assert [c.token_ids for c in short] == [c.token_ids[:5] for c in longer]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_those_of_the_sampled_policy(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, temperature: float
) -> None:
    settings = LONG.model_copy(update={"temperature": temperature})
    found = generate(llama, tokenizer, PROMPTS, settings, seed=1)
    again = completion_log_probs(llama, [(c.prompt_ids, c.token_ids) for c in found], temperature=temperature)
    for completion, expected in zip(found, again, strict=True):
        torch.testing.assert_close(torch.tensor(completion.log_probs), expected, atol=1e-4, rtol=1e-4)


def test_a_completion_ends_with_its_first_eos_and_says_so(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    with torch.no_grad():  # make EOS likely
        llama.lm_head.weight[tokenizer.eos_token_id] = llama.model.norm.weight / 16
        llama.lm_head.weight.mul_(4.0)
    found = generate(llama, tokenizer, PROMPTS * 20, GenerationSettings(max_new_tokens=30), seed=2)
    assert any(c.finished for c in found)
    for completion in found:
        ends = [i for i, t in enumerate(completion.token_ids) if t == tokenizer.eos_token_id]
        assert ends == ([len(completion.token_ids) - 1] if completion.finished else [])
        assert len(completion.token_ids) == 30 or completion.finished
        assert len(completion.log_probs) == len(completion.token_ids)
        assert tokenizer.eos_token not in completion.text


def test_tokens_are_drawn_with_their_probabilities() -> None:
    probabilities = torch.tensor([0.5, 0.0, 0.3, 0.2])
    uniforms = (torch.arange(1000) + 0.5) / 1000
    tokens, log_probs = choose_tokens(probabilities.log().expand(1000, 4), uniforms)
    assert torch.bincount(tokens, minlength=4).tolist() == [500, 0, 300, 200]
    torch.testing.assert_close(log_probs.exp(), probabilities[tokens])


@given(st.integers(0, 2**32), st.floats(0, 1, exclude_max=True, width=32))
def test_a_token_without_probability_is_never_drawn(seed: int, uniform: float) -> None:
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(seed)) * 20
    logits[0, ::2] = float("-inf")
    token, _ = choose_tokens(logits, row_uniforms(0, 1, 1)[:, 0] * 0 + min(uniform, 1 - 2**-22))
    assert int(token) % 2 == 1


@pytest.mark.parametrize(
    ("options", "allowed"),
    [({"top_k": 2}, {0, 2}), ({"top_p": 0.6}, {0, 2}), ({"top_p": 0.4}, {0}), ({"top_k": 1}, {0})],
)
def test_truncation_keeps_the_most_probable_tokens_and_renormalises(
    options: dict[str, float], allowed: set[int]
) -> None:
    logits = torch.tensor([0.5, 0.1, 0.3, 0.1]).log().expand(200, 4)
    choose: Callable[..., tuple[torch.Tensor, torch.Tensor]] = choose_tokens
    tokens, log_probs = choose(logits, torch.arange(200) / 200, **options)
    assert set(tokens.tolist()) == allowed
    total = sum(float(log_probs[tokens == t][0].exp()) for t in allowed)
    assert total == pytest.approx(1.0, abs=1e-5)


def test_a_part_of_the_prompts_is_answered_as_it_would_be_among_all(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    ids = [[3 + i, 5, 7] for i in range(5)]
    whole = generate_from_ids(llama, tokenizer, ids, LONG, seed=5)
    part = generate_from_ids(llama, tokenizer, [ids[4], ids[1]], LONG, seed=5, rows=[4, 1])
    assert [c.token_ids for c in part] == [whole[4].token_ids, whole[1].token_ids]


def test_neighbouring_large_seeds_give_different_streams() -> None:
    seeds = (2**64 - 1, 2**64 - 2, 2**63 + 1, 2**63)
    assert len({tuple(row_uniforms(s, 1, 4)[0].tolist()) for s in seeds}) == 4


def test_streams_are_prefixes_of_longer_ones_and_differ_between_rows() -> None:
    long = row_uniforms(-7, 4, 50)
    assert torch.equal(row_uniforms(-7, 2, 9), long[:2, :9])
    assert torch.equal(row_uniforms(-7, [3, 1], 50), long[[3, 1]])
    assert len({tuple(row.tolist()) for row in long}) == 4
    assert float(long.max()) < 1.0


def test_a_prompt_that_leaves_no_room_is_refused(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(DataError, match=r"Prompt 1 has .* tokens and max_new_tokens is 120"):
        generate(
            llama,
            tokenizer,
            ["I", "order 90210 arrived broken"],
            GenerationSettings(max_new_tokens=120),
            seed=0,
        )
    with pytest.raises(DataError, match="Prompt 0 is empty"):
        generate(llama, tokenizer, [""], LONG, seed=0)
