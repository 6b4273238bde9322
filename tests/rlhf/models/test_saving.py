"""Model directories: whole, safe, free of places and times, and readable by MLflow where they lie."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from rlhf.errors import ModelError
from rlhf.models.directory import ModelDirectory, directory_digest, open_directory
from rlhf.models.loading import load_policy, load_reward_model, load_tokenizer
from rlhf.models.saving import merge_adapter, save_model


def save(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerFast,
    path: Path,
    kind: str = "causal-lm",
) -> ModelDirectory:
    return save_model(
        model,
        tokenizer,
        path,
        kind=kind,  # type: ignore[arg-type]
        settings={"sft": {"epochs": 1}},
        metrics={"eval/loss": 1.5},
        curves={"sft/loss": [(1, 2.0)]},
    )


def trained_adapter(model: PreTrainedModel, task: str = "CAUSAL_LM") -> PeftModel:
    adapter = get_peft_model(
        model,
        LoraConfig(
            r=2,
            target_modules="all-linear",
            task_type=task,
            modules_to_save=["score"] if task == "SEQ_CLS" else None,
        ),
    )
    torch.manual_seed(1)
    for name, parameter in adapter.named_parameters():
        if "lora_B" in name:  # zero at the start: an untrained adapter would change nothing
            torch.nn.init.normal_(parameter, std=0.1)
    return adapter.eval()


def test_a_saved_policy_is_read_back_bit_by_bit(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    directory = save(llama, tokenizer, tmp_path / "m")
    loaded = load_policy(directory)
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in llama.state_dict().items())
    assert load_tokenizer(directory)("order 12")["input_ids"] == tokenizer("order 12")["input_ids"]
    assert directory.metrics == {"eval/loss": 1.5}
    assert directory.curves == {"sft/loss": [(1, 2.0)]}


def test_the_digest_depends_on_the_content_and_not_on_the_place(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    here, there = save(llama, tokenizer, tmp_path / "a"), save(llama, tokenizer, tmp_path / "b" / "c")
    assert here.digest == there.digest
    moved = shutil.move(here.path, tmp_path / "elsewhere")
    assert open_directory(Path(moved), verify=True).digest == there.digest


def test_no_file_names_a_place_on_this_machine(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    base = save(llama, tokenizer, tmp_path / "base")
    again = save(load_policy(base), load_tokenizer(base), tmp_path / "again")
    adapter = save(trained_adapter(load_policy(base)), load_tokenizer(base), tmp_path / "lora", "adapter")
    for directory in (again, adapter):
        for file in directory.path.rglob("*"):
            assert not file.is_file() or str(tmp_path).encode() not in file.read_bytes(), file


def test_no_pickle_is_written(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    adapter = save(trained_adapter(llama), tokenizer, tmp_path / "m", "adapter")
    assert {f.suffix for f in adapter.path.rglob("*") if f.is_file()} <= {
        "",
        ".json",
        ".jinja",
        ".safetensors",
    }


def test_a_taken_place_is_refused_and_left_as_it_was(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    directory = save(llama, tokenizer, tmp_path / "m")
    with pytest.raises(ModelError, match="not empty"):
        save(llama, tokenizer, tmp_path / "m")
    assert directory_digest(tmp_path / "m") == directory.digest


def test_an_interrupted_write_leaves_nothing_under_the_final_name(
    llama: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(tokenizer, "save_pretrained", full)
    with pytest.raises(OSError, match="No space"):
        save(llama, tokenizer, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_mlflow_loads_a_policy_from_the_directory_itself(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    mlflow = pytest.importorskip("mlflow")
    directory = save(llama, tokenizer, tmp_path / "m")
    pipeline = mlflow.transformers.load_model(str(directory.path))
    assert pipeline.task == "text-generation"
    assert all(torch.equal(v, pipeline.model.state_dict()[k]) for k, v in llama.state_dict().items())
    assert pipeline.tokenizer("order 12")["input_ids"] == tokenizer("order 12")["input_ids"]
    assert pipeline("order", max_new_tokens=3)[0]["generated_text"].startswith("order")
    assert open_directory(directory.path, verify=True)


def test_mlflow_loads_a_reward_model_from_the_directory_itself(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    mlflow = pytest.importorskip("mlflow")
    save(llama, tokenizer, tmp_path / "base")
    model = load_reward_model(tmp_path / "base")
    save(model, tokenizer, tmp_path / "rm", "reward-model")
    pipeline = mlflow.transformers.load_model(str(tmp_path / "rm"))
    assert pipeline.task == "text-classification"
    scored = pipeline("order 12", function_to_apply="none")[0]["score"]
    ids = torch.tensor([tokenizer("order 12")["input_ids"]])
    assert scored == pytest.approx(model(input_ids=ids).logits.item(), abs=1e-5)


def test_a_merged_adapter_answers_like_base_and_adapter_together(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    base = save(llama, tokenizer, tmp_path / "base")
    wrapped = trained_adapter(load_policy(base))
    ids = torch.tensor([tokenizer("Where is order 48213?")["input_ids"]])
    expected = wrapped(input_ids=ids).logits
    assert not torch.allclose(expected, llama(input_ids=ids).logits, atol=1e-3)
    adapter = save(wrapped, tokenizer, tmp_path / "adapter", "adapter")
    merged = merge_adapter(adapter, base.path, tmp_path / "merged")
    assert merged.kind == "causal-lm"
    assert merged.training["merged_adapter"] == adapter.digest
    assert torch.allclose(load_policy(merged)(input_ids=ids).logits, expected, atol=1e-5)
    assert torch.allclose(load_policy(adapter, base=base)(input_ids=ids).logits, expected, atol=1e-5)


def test_a_merged_reward_adapter_keeps_its_score_head(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    base = save(llama, tokenizer, tmp_path / "base")
    wrapped = trained_adapter(load_reward_model(base), "SEQ_CLS")
    ids = torch.tensor([tokenizer("Where is order 48213?")["input_ids"]])
    expected = wrapped(input_ids=ids).logits
    adapter = save(wrapped, tokenizer, tmp_path / "adapter", "adapter")
    torch.manual_seed(77)  # the head of the base is drawn anew and must not win
    merged = merge_adapter(adapter, base.path, tmp_path / "merged")
    assert merged.kind == "reward-model"
    model = AutoModelForSequenceClassification.from_pretrained(merged.path)
    assert torch.allclose(model(input_ids=ids).logits, expected, atol=1e-5)


def test_an_adapter_is_not_put_on_another_base(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    base = save(llama, tokenizer, tmp_path / "base")
    adapter = save_model(
        trained_adapter(load_policy(base)), tokenizer, tmp_path / "adapter",
        kind="adapter", settings={"base": {"digest": base.digest}}, metrics={},
    )  # fmt: skip
    with torch.no_grad():
        llama.model.norm.weight.mul_(1.01)
    other = save(llama, tokenizer, tmp_path / "other")
    with pytest.raises(ModelError, match="trained on a model with digest"):
        merge_adapter(adapter, other.path, tmp_path / "merged")
    with pytest.raises(ModelError, match="not an adapter"):
        merge_adapter(base, base.path, tmp_path / "merged")
    with pytest.raises(ModelError, match="as its base"):
        load_policy(adapter)
    assert not (tmp_path / "merged").exists()


def test_the_mlmodel_file_names_no_class_that_would_run_code_of_the_directory(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    import transformers
    import yaml

    directory = save(llama, tokenizer, tmp_path / "m")
    flavor = yaml.safe_load((directory.path / "MLmodel").read_text())["flavors"]["transformers"]
    for key in ("tokenizer_type", "pipeline_model_type"):
        assert hasattr(transformers, flavor[key])
    assert "auto_map" not in json.loads((directory.path / "config.json").read_text())
