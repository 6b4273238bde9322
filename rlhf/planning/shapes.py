"""How large a model is, known from its ``config.json`` alone: parameters are counted on PyTorch's meta
device, which holds shapes and no weights."""

from dataclasses import dataclass
from typing import Any

from rlhf.errors import ModelError
from rlhf.training.settings import ArchitectureSettings, BaseModelSettings


@dataclass(frozen=True)
class ModelShape:
    """The figures that memory follows from."""

    parameters: int
    linear_sides: int
    """Sum of rows and columns of all linear layers but the output: LoRA has ``rank`` times as many
    weights."""
    hidden_size: int
    layers: int
    key_value_size: int
    """Width of keys (and of values) of one token and layer."""
    ffn_size: int
    vocabulary: int
    positions: int


def shape_of_base(settings: BaseModelSettings) -> ModelShape:
    """Read the configuration of a local model, or of the hub's (no weights are fetched).

    Raises:
        ModelError: the model cannot be reached, or its architecture is not a language model's.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(settings.model, revision=settings.revision)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"parameters.base_model.model: the configuration of {settings.model} cannot be read "
            f"({' '.join(str(error).split())[:200]}); check the name, the revision and the network."
        ) from error
    return shape_of_config(config)


def shape_of_architecture(settings: ArchitectureSettings, vocabulary: int) -> ModelShape:
    """The model that pre-training makes."""
    from transformers import LlamaConfig

    return shape_of_config(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=settings.hidden_size,
            intermediate_size=settings.ffn_size,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            num_key_value_heads=settings.key_value_heads or settings.heads,
            max_position_embeddings=settings.max_positions,
            tie_word_embeddings=settings.tied_embeddings,
        )
    )


def shape_of_config(config: Any) -> ModelShape:
    """Count a causal language model's parameters from its configuration.

    Raises:
        ModelError: its architecture is not a causal language model's.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except ValueError as error:
        raise ModelError(
            f"parameters.base_model.model: {config.model_type} is no causal language model; choose one."
        ) from error
    config = config.get_text_config()
    head = model.get_output_embeddings()
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    ffn = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None)
    return ModelShape(
        parameters=sum(p.numel() for p in model.parameters()),
        linear_sides=sum(m.in_features + m.out_features for m in linears),
        hidden_size=config.hidden_size,
        layers=config.num_hidden_layers,
        key_value_size=(getattr(config, "num_key_value_heads", None) or heads) * head_size,
        ffn_size=ffn or 4 * config.hidden_size,
        vocabulary=config.vocab_size,
        positions=getattr(config, "max_position_embeddings", None) or 1024,
    )
