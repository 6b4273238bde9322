"""Sentences about the memory of stages, from shapes alone."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf.planning.memory import training_memory
from rlhf.planning.shapes import ModelShape, shape_of_architecture, shape_of_base
from rlhf.planning.stages import policy, remedies, supervised
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.settings import ArchitectureSettings, BaseModelSettings, LoRASettings, SFTSettings

SEVEN_B = ModelShape(
    parameters=6_738_415_616,
    linear_sides=32 * (4 * 8192 + 3 * (4096 + 11008)),
    hidden_size=4096,
    layers=32,
    key_value_size=4096,
    ffn_size=11008,
    vocabulary=32000,
    positions=4096,
)


def test_parameters_are_those_of_the_model_itself(tmp_path) -> None:  # type: ignore[no-untyped-def]
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    model = LlamaForCausalLM(config)
    config.save_pretrained(tmp_path)  # the configuration, and no weights
    (tmp_path / "config.json").write_text(
        (tmp_path / "config.json").read_text().replace("{", '{"architectures": ["LlamaForCausalLM"],', 1)
    )
    shape = shape_of_base(BaseModelSettings(model=str(tmp_path)))
    assert shape.parameters == model.num_parameters()
    linears = [m for m in model.model.modules() if isinstance(m, torch.nn.Linear)]
    assert shape.linear_sides == sum(m.in_features + m.out_features for m in linears)


def test_full_fine_tuning_of_seven_billion_holds_sixteen_bytes_a_parameter() -> None:
    memory = training_memory(SEVEN_B, tokens=0, bytes_per_value=2)
    assert memory.weights + memory.gradients + memory.optimizer == 16 * SEVEN_B.parameters


def test_lora_trains_rank_times_the_sides_of_each_matrix() -> None:
    # peft reports 39,976,960 trainable parameters for LLaMA-7B at rank 16 on all linear layers
    memory = training_memory(SEVEN_B, tokens=0, bytes_per_value=2, lora=LoRASettings(rank=16))
    assert memory.gradients == 4 * 39_976_960


def test_checkpointing_keeps_one_block_and_the_borders_of_the_others() -> None:
    full = training_memory(SEVEN_B, tokens=4096, bytes_per_value=2, logits=False).activations
    kept = training_memory(
        SEVEN_B, tokens=4096, bytes_per_value=2, logits=False, checkpointing=True
    ).activations
    block = 10 * 4096 + 4 * 4096 + 4 * 11008
    assert full / kept == pytest.approx(32 * block / (32 * 4096 + block))


def test_the_gentlest_change_that_fits_is_offered() -> None:
    settings = SFTSettings(batch_size=32, max_length=2048)
    memory = partial(supervised, SEVEN_B, device="cuda")
    available = 141 * 2**30
    assert memory(settings).total > available
    offered = remedies("sft", settings, memory, available)
    assert offered is not None
    assert "sft.lora" not in offered
    assert memory(settings.model_copy(update={k[4:]: v for k, v in offered.items()})).total <= available
    small = remedies("sft", settings, memory, 40 * 2**30)
    assert small is not None
    assert small["sft.lora"] == {"rank": 16}
    assert remedies("sft", settings, memory, 2**30) is None


def test_a_shared_critic_saves_ppo_a_model_in_training() -> None:
    shape = shape_of_architecture(ArchitectureSettings(), 1024)
    totals = [
        policy(shape, shape, "ppo", PPOSettings(critic=critic), 128, "cpu")  # type: ignore[arg-type]
        for critic in ("separate", "shared")
    ]
    saved = [a - b for a, b in zip(vars(totals[0]).values(), vars(totals[1]).values(), strict=True)]
    assert sum(saved) == pytest.approx(16 * shape.parameters)
    assert replace(totals[0], weights=0, gradients=0, optimizer=0) == replace(
        totals[1], weights=0, gradients=0, optimizer=0
    )
