"""Stage settings as trainer arguments, and the contradictions that are refused."""

from pathlib import Path

import pytest
from pydantic import ValidationError
from transformers import RobertaConfig
from trl import SFTConfig

from rlhf.errors import ConfigError
from rlhf.models.loading import load_policy
from rlhf.training.arguments import (
    check_length,
    quantization_options,
    refuse_added_tokens,
    training_arguments,
    use_bf16,
)
from rlhf.training.settings import LoRASettings, SFTSettings


def test_a_batch_is_made_of_micro_batches(base: Path, tmp_path: Path) -> None:
    settings = SFTSettings(batch_size=32, micro_batch_size=8)
    made = training_arguments(SFTConfig, settings, work=tmp_path, seed=0, model=load_policy(base))
    assert (made.per_device_train_batch_size, made.gradient_accumulation_steps) == (8, 4)


def test_a_batch_is_shared_out_among_processes(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="batch_size 32 is not a multiple of the 3 processes"):
        training_arguments(SFTConfig, SFTSettings(), work=tmp_path, seed=0, model=load_policy(base))


def test_a_micro_batch_that_does_not_fill_the_batch_is_refused() -> None:
    with pytest.raises(ValidationError, match="not a multiple of micro_batch_size"):
        SFTSettings(batch_size=32, micro_batch_size=5)


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ValidationError, match="learning_rate"):
        SFTSettings.model_validate({"learning_rate": 1e-3})


def test_the_trainer_reports_to_nobody_and_writes_no_checkpoint(base: Path, tmp_path: Path) -> None:
    made = training_arguments(SFTConfig, SFTSettings(), work=tmp_path, seed=5, model=load_policy(base))
    assert made.report_to == []
    assert made.save_strategy == "no"
    assert made.eval_strategy == "no"
    assert made.seed == made.data_seed == 5
    assert not made.activation_checkpointing


def test_fp32_is_fp32() -> None:
    assert use_bf16("bf16")
    assert not use_bf16("fp32")


def test_four_bit_without_a_gpu_is_refused() -> None:
    assert quantization_options(None) == quantization_options(LoRASettings()) == {}
    with pytest.raises(ConfigError, match="quantize_4bit needs a CUDA device"):
        quantization_options(LoRASettings(quantize_4bit=True))


def test_an_adapter_with_new_tokens_is_refused() -> None:
    refuse_added_tokens(2, None, "sft")
    with pytest.raises(ConfigError, match=r"adds 2 tokens.*sft\.template"):
        refuse_added_tokens(2, LoRASettings(), "sft")


def test_sequences_beyond_the_positions_of_the_model_are_refused() -> None:
    config = RobertaConfig(max_position_embeddings=514, pad_token_id=1)
    check_length(512, config, "reward_model")
    with pytest.raises(ConfigError, match="512 positions"):
        check_length(513, config, "reward_model")
