"""Exports: whole, loaded by plain transformers, and with the logits of the model they come from."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from rlhf.errors import ConfigError, ModelError
from rlhf.models.directory import ModelDirectory
from rlhf.models.export import CONVERTER_VARIABLE, convert_to_gguf, export_policy
from rlhf.models.loading import load_policy
from rlhf.models.saving import save_model

IDS = torch.arange(60).reshape(3, 20)
MESSAGES = [{"role": "user", "content": "Where is my lamp?"}]

# Writes what it was asked for, as llama.cpp's converter does, or fails as it does.
STAND_IN = """
import argparse, pathlib, sys
parser = argparse.ArgumentParser()
parser.add_argument("model", type=pathlib.Path)
parser.add_argument("--outfile", type=pathlib.Path)
parser.add_argument("--outtype")
given = parser.parse_args()
assert (given.model / "config.json").is_file() and (given.model / "tokenizer.json").is_file()
if given.outtype == "q8_0":
    sys.exit("Model LlamaForCausalLM is not supported")
if given.outtype != "bf16":
    given.outfile.write_bytes(b"GGUF" + given.outtype.encode())
"""


@pytest.fixture
def policy(llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> ModelDirectory:
    return save_model(llama, tokenizer, tmp_path / "policy", kind="causal-lm", settings={}, metrics={})


@pytest.fixture
def converter(tmp_path: Path) -> Path:
    script = tmp_path / "convert_hf_to_gguf.py"
    script.write_text(STAND_IN)
    return script


def logits(path: Path) -> torch.Tensor:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(path).eval()(IDS).logits


def test_plain_transformers_loads_an_export_with_the_same_logits(
    policy: ModelDirectory, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    done = export_policy(policy.path, tmp_path / "out", card="---\ntags: [rlhf]\n---\n\n# policy")
    with torch.no_grad():
        assert torch.equal(logits(done.path), load_policy(policy)(IDS).logits)
    loaded = AutoTokenizer.from_pretrained(done.path)
    assert loaded.apply_chat_template(MESSAGES, tokenize=False) == tokenizer.apply_chat_template(
        MESSAGES, tokenize=False
    )
    assert done.size == sum(file.stat().st_size for file in done.path.iterdir())
    assert {file.name for file in done.path.iterdir()} == {
        "model.safetensors", "config.json", "generation_config.json", "tokenizer.json",
        "tokenizer_config.json", "chat_template.jinja", "README.md",
    }  # fmt: skip
    card = (done.path / "README.md").read_text()
    assert card.startswith("---\ntags: [rlhf]\n---\n\n# policy\n\n## Use")


def test_an_adapter_is_exported_merged(
    policy: ModelDirectory, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    adapter = get_peft_model(
        load_policy(policy), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    torch.manual_seed(1)
    for name, parameter in adapter.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    settings = {"base": {"digest": policy.digest}}
    trained = save_model(adapter, tokenizer, tmp_path / "lora", kind="adapter", settings=settings, metrics={})
    done = export_policy(trained.path, tmp_path / "out", base=policy.path)
    with torch.no_grad():
        merged = load_policy(trained, base=policy)(IDS).logits
    assert torch.equal(logits(done.path), merged)
    assert not torch.equal(merged, logits(policy.path))
    with pytest.raises(ModelError, match="--base"):
        export_policy(trained.path, tmp_path / "other")


def test_a_directory_that_transformers_saved_gets_a_generation_config(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    llama.save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    (plain / "generation_config.json").unlink()
    done = export_policy(plain, tmp_path / "out")
    generation = AutoModelForCausalLM.from_pretrained(done.path).generation_config
    assert generation.eos_token_id == tokenizer.eos_token_id


def test_nothing_is_overwritten_and_nothing_half_written_is_left(
    policy: ModelDirectory, converter: Path, tmp_path: Path
) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="not empty"):
        export_policy(policy.path, taken)
    before = set(tmp_path.iterdir())
    with pytest.raises(ModelError, match="LlamaForCausalLM is not supported"):
        export_policy(policy.path, tmp_path / "out", gguf="q8_0", converter=converter)
    assert set(tmp_path.iterdir()) == before
    empty = tmp_path / "empty"
    empty.mkdir()
    assert export_policy(policy.path, empty).path == empty


def test_what_is_no_policy_or_was_changed_is_refused(
    policy: ModelDirectory, reward_directory: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(ModelError, match="no model directory"):
        export_policy(tmp_path / "absent", out)
    with pytest.raises(ModelError, match="reward-model"):
        export_policy(reward_directory, out)
    with pytest.raises(ModelError, match="leave --base out"):
        export_policy(policy.path, out, base=policy.path)
    (tmp_path / "void").mkdir()
    with pytest.raises(ModelError, match=r"config\.json"):
        export_policy(tmp_path / "void", out)
    weights = policy.path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ModelError, match="changed after it was sealed"):
        export_policy(policy.path, out)
    assert not out.exists()


def test_gguf_is_written_by_the_users_converter(
    policy: ModelDirectory, converter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = export_policy(policy.path, tmp_path / "out", gguf="f16", converter=converter)
    assert done.gguf == tmp_path / "out" / "model-f16.gguf"
    assert done.gguf.read_bytes() == b"GGUFf16"
    monkeypatch.setenv(CONVERTER_VARIABLE, str(converter))
    assert export_policy(policy.path, tmp_path / "again", gguf="f32").gguf is not None
    with pytest.raises(ModelError, match="it wrote no file"):
        convert_to_gguf(policy.path, tmp_path / "none.gguf", "bf16", converter)


def test_an_absent_converter_is_named_before_anything_is_written(
    policy: ModelDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(CONVERTER_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=CONVERTER_VARIABLE):
        export_policy(policy.path, tmp_path / "out", gguf="f16")
    with pytest.raises(ConfigError, match="There is no GGUF converter"):
        export_policy(policy.path, tmp_path / "out", gguf="f16", converter=tmp_path / "nowhere.py")
    assert not (tmp_path / "out").exists()


def test_quantizing_without_torchao_names_the_extra(
    policy: ModelDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="--quantize needs torchao; install the extra 'quantize'"):
        export_policy(policy.path, tmp_path / "out", quantize="int8")
