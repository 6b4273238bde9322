"""Quantized exports of a trained policy, and training that prepares for them."""

import json
import logging
from pathlib import Path
from typing import get_args

import pytest
import torch
from datasets import DatasetDict
from safetensors import safe_open
from transformers import AutoModelForCausalLM, PreTrainedModel

from rlhf.errors import ConfigError, ModelError
from rlhf.models.directory import ModelDirectory
from rlhf.models.export import export_policy
from rlhf.models.loading import load_policy, load_tokenizer
from rlhf.models.quantization import fake_quantize, quantizable_layers, unwrap_fake_quantized
from rlhf.models.settings_quantization import QuantizationAwareSettings, QuantizationScheme
from rlhf.training.rows import encode_demonstrations, token_loss
from rlhf.training.settings import LoRASettings, OptimizerSettings, SFTSettings
from rlhf.training.sft import train_sft

pytest.importorskip("torchao", reason="the extra 'quantize' is not installed")
pytest.importorskip("compressed_tensors", reason="the extra 'quantize' is not installed")

SETTINGS = SFTSettings(
    epochs=8,
    batch_size=16,
    max_length=64,
    evaluations=2,
    precision="fp32",
    optimizer=OptimizerSettings(learning_rate=1e-2),
)
# Largest difference of a logit from the full-precision model's, as a share of their standard deviation.
TOLERANCE: dict[QuantizationScheme, float] = {"int8": 0.02, "int4": 0.4, "int8_dynamic_int4": 0.4}


@pytest.fixture(scope="module")
def policy(
    base: Path, demonstrations: DatasetDict, tmp_path_factory: pytest.TempPathFactory
) -> ModelDirectory:
    return train_sft(base, demonstrations, SETTINGS, tmp_path_factory.mktemp("sft") / "policy")


@pytest.fixture(scope="module")
def ids(policy: ModelDirectory, demonstrations: DatasetDict) -> torch.Tensor:
    """Tokens of dev demonstrations, as many of each."""
    rows = encode_demonstrations(demonstrations["dev"], load_tokenizer(policy), max_length=64).dataset
    return torch.tensor([row["input_ids"][:24] for row in rows])


@torch.no_grad()
def logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    return model.eval()(ids).logits


@pytest.mark.parametrize("scheme", get_args(QuantizationScheme))
def test_a_quantized_export_is_loaded_by_plain_transformers_within_its_tolerance(
    policy: ModelDirectory, ids: torch.Tensor, tmp_path: Path, scheme: QuantizationScheme
) -> None:
    done = export_policy(policy.path, tmp_path / "out", quantize=scheme)
    expected = logits(load_policy(policy), ids)
    off = (logits(AutoModelForCausalLM.from_pretrained(done.path), ids) - expected).abs().max()
    assert 0 < off < TOLERANCE[scheme] * expected.std()
    # q, k, v, o, gate and up of two layers; the 48 inputs of down are no multiple of 32.
    assert done.quantized_layers == (14 if scheme == "int8" else 12)
    assert scheme in (done.path / "README.md").read_text()


@pytest.mark.parametrize("scheme", get_args(QuantizationScheme))
def test_a_quantized_export_is_smaller_and_holds_no_pickle(
    policy: ModelDirectory, tmp_path: Path, scheme: QuantizationScheme
) -> None:
    done = export_policy(policy.path, tmp_path / "out", quantize=scheme)
    weights = done.path / "model.safetensors"
    assert weights.stat().st_size < (policy.path / "model.safetensors").stat().st_size
    with safe_open(weights, framework="pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    assert (torch.int32 if scheme == "int4" else torch.int8) in kinds
    assert {file.suffix for file in done.path.iterdir()} <= {".safetensors", ".json", ".jinja", ".md"}
    assert str(tmp_path) not in json.dumps(json.loads((done.path / "config.json").read_text()))


@pytest.mark.parametrize("scheme", ["int4", "int8_dynamic_int4"])
def test_the_export_computes_what_the_fake_quantized_network_computed(
    policy: ModelDirectory, ids: torch.Tensor, tmp_path: Path, scheme: QuantizationScheme
) -> None:
    done = export_policy(policy.path, tmp_path / "out", quantize=scheme)
    trained_on = load_policy(policy)
    assert fake_quantize(trained_on, scheme) == done.quantized_layers
    exported = logits(AutoModelForCausalLM.from_pretrained(done.path), ids)
    assert torch.equal(exported, logits(trained_on, ids))
    unwrap_fake_quantized(trained_on)
    assert torch.equal(logits(trained_on, ids), logits(load_policy(policy), ids))


def test_a_policy_trained_for_its_scheme_loses_less_by_it_than_one_that_was_not(
    policy: ModelDirectory, base: Path, demonstrations: DatasetDict, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"quantization_aware": QuantizationAwareSettings(delay_steps=4)})
    aware = train_sft(base, demonstrations, settings, tmp_path / "aware")
    rows = encode_demonstrations(demonstrations["dev"], load_tokenizer(aware), max_length=64).dataset
    losses = {}
    for name, directory in {"aware": aware, "plain": policy}.items():
        done = export_policy(directory.path, tmp_path / name / "out", quantize="int8_dynamic_int4")
        model = AutoModelForCausalLM.from_pretrained(done.path).eval()
        losses[name], _ = token_loss(model, rows, load_tokenizer(aware).pad_token_id)
    assert losses["aware"] < losses["plain"]
    # What dev evaluations said during training is what the export does.
    assert losses["aware"] == pytest.approx(aware.metrics["eval/loss"], rel=1e-5)
    # The saved policy is an ordinary one.
    assert type(load_policy(aware).model.layers[0].mlp.up_proj) is torch.nn.Linear
    assert aware.training["sft"]["quantization_aware"]["scheme"] == "int8_dynamic_int4"


def test_steps_before_the_delay_are_those_of_plain_training(
    base: Path, demonstrations: DatasetDict, tmp_path: Path
) -> None:
    two = SETTINGS.model_copy(update={"max_steps": 2, "evaluations": 2, "logging_steps": 1})
    delayed = two.model_copy(update={"quantization_aware": QuantizationAwareSettings(delay_steps=1)})
    plain = train_sft(base, demonstrations, two, tmp_path / "plain").curves["sft/loss"]
    late = train_sft(base, demonstrations, delayed, tmp_path / "late").curves["sft/loss"]
    assert late[0] == plain[0]
    assert late[1] != plain[1]


def test_a_delay_beyond_the_end_is_refused(base: Path, demonstrations: DatasetDict, tmp_path: Path) -> None:
    late = QuantizationAwareSettings(delay_steps=32)
    settings = SETTINGS.model_copy(update={"quantization_aware": late})
    with pytest.raises(ConfigError, match="training ends after 32 steps"):
        train_sft(base, demonstrations, settings, tmp_path / "out")
    with pytest.raises(ValueError, match="leave lora or quantization_aware out"):
        SFTSettings(lora=LoRASettings(), quantization_aware=late)


def test_another_scheme_than_the_trained_one_is_pointed_out(
    base: Path, demonstrations: DatasetDict, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    aware = QuantizationAwareSettings(scheme="int8_dynamic_int4")
    settings = SETTINGS.model_copy(update={"max_steps": 1, "quantization_aware": aware})
    trained = train_sft(base, demonstrations, settings, tmp_path / "aware")
    with caplog.at_level(logging.WARNING, logger="rlhf.models.export"):
        export_policy(trained.path, tmp_path / "same", quantize="int8_dynamic_int4")
        assert not caplog.records
        export_policy(trained.path, tmp_path / "other", quantize="int8")
    assert "trained for int8_dynamic_int4 and is quantized as int8" in caplog.text


def test_a_model_without_linear_layers_cannot_be_quantized(gpt2_base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="GPT2LMHeadModel has no linear layer"):
        export_policy(gpt2_base, tmp_path / "out", quantize="int4")
    assert not list(tmp_path.iterdir())


def test_the_output_projection_keeps_its_precision(policy: ModelDirectory) -> None:
    assert "lm_head" not in quantizable_layers(load_policy(policy), "int8")
