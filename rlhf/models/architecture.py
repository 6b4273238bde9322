"""The small decoder that is trained from nothing: a Llama of the given shape, reproducible by seed.

Not a place for other architectures: a model that exists somewhere is imported, not rebuilt.
"""

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from rlhf.training.settings import ArchitectureSettings


def new_llama(
    settings: ArchitectureSettings, tokenizer: PreTrainedTokenizerBase, *, seed: int
) -> LlamaForCausalLM:
    """An initialised Llama that fits the tokenizer, in fp32. The global random state is left as it was."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=settings.ffn_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.key_value_heads or settings.heads,
        max_position_embeddings=settings.max_positions,
        initializer_range=settings.initializer_range,
        tie_word_embeddings=settings.tied_embeddings,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def count_parameters(model: nn.Module) -> int:
    """Parameters of a model; tied ones count once."""
    return sum(p.numel() for p in model.parameters())
