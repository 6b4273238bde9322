"""Models from directories and the hub, and the errors when they are not there."""

import json
from pathlib import Path

import pytest
import torch
from transformers import GPT2LMHeadModel

from rlhf.errors import ModelError
from rlhf.models.directory import open_directory
from rlhf.models.loading import (
    import_base_model,
    load_policy,
    load_reward_model,
    load_tokenizer,
    require_base,
)
from rlhf.training.settings import BaseModelSettings


def test_a_missing_directory_is_named_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"sft.base: there is no model directory .*nowhere"):
        load_policy(tmp_path / "nowhere", key="sft.base")


def test_a_hub_model_without_a_network_names_the_remedy() -> None:
    for load in (load_policy, load_reward_model, load_tokenizer):
        with pytest.raises(
            ModelError, match=r"base_model.model: .*'no-such-owner/no-such-model'.*local directory"
        ):
            load("no-such-owner/no-such-model")
    with pytest.raises(ModelError, match="could not be loaded"):
        import_base_model(BaseModelSettings(model="no-such-owner/no-such-model"), Path("unused"))
    assert not Path("unused").exists()


def test_pickled_weights_are_never_loaded(gpt2_directory: Path) -> None:
    model = GPT2LMHeadModel.from_pretrained(gpt2_directory)
    (gpt2_directory / "model.safetensors").unlink()
    torch.save(model.state_dict(), gpt2_directory / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        load_policy(gpt2_directory)


def test_code_that_comes_with_a_model_is_not_run(gpt2_directory: Path, tmp_path: Path) -> None:
    config = json.loads((gpt2_directory / "config.json").read_text())
    config |= {"model_type": "mine", "architectures": ["Mine"], "auto_map": {"AutoConfig": "code.MineConfig"}}
    (gpt2_directory / "config.json").write_text(json.dumps(config))
    (gpt2_directory / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError):
        load_policy(gpt2_directory)
    with pytest.raises(ModelError, match="not run"):
        import_base_model(BaseModelSettings(model=str(gpt2_directory)), tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_a_reward_model_from_a_language_model_has_one_output(gpt2_directory: Path) -> None:
    model = load_reward_model(gpt2_directory)
    assert model.config.num_labels == 1
    assert model.score.out_features == 1  # type: ignore[union-attr]


def test_an_imported_model_is_a_sealed_copy_of_the_published_files_only(
    gpt2_directory: Path, tmp_path: Path
) -> None:
    (gpt2_directory / "training_args.bin").write_bytes(b"pickle")
    (gpt2_directory / "notes.txt").write_text("mine")
    directory = import_base_model(BaseModelSettings(model=str(gpt2_directory)), tmp_path / "out")
    assert directory.kind == "causal-lm"
    assert open_directory(directory.path, verify=True)
    names = {f.name for f in directory.path.iterdir()}
    assert {"model.safetensors", "config.json", "MLmodel", "tokenizer.json"} <= names
    assert not {"training_args.bin", "notes.txt"} & names
    before = GPT2LMHeadModel.from_pretrained(gpt2_directory).state_dict()
    assert all(torch.equal(v, before[k]) for k, v in load_policy(directory).state_dict().items())


def test_an_imported_encoder_is_no_language_model(roberta_directory: Path, tmp_path: Path) -> None:
    assert (
        import_base_model(BaseModelSettings(model=str(roberta_directory)), tmp_path / "out").kind == "encoder"
    )


def test_the_place_a_model_was_imported_from_does_not_change_its_digest(
    gpt2_directory: Path, tmp_path: Path
) -> None:
    first = import_base_model(BaseModelSettings(model=str(gpt2_directory)), tmp_path / "one")
    moved = gpt2_directory.rename(tmp_path / "moved")
    second = import_base_model(BaseModelSettings(model=str(moved)), tmp_path / "two")
    assert first.digest == second.digest


def test_a_directory_without_weights_can_not_be_imported(gpt2_directory: Path, tmp_path: Path) -> None:
    (gpt2_directory / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no config\.json with"):
        import_base_model(BaseModelSettings(model=str(gpt2_directory)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_adapter_is_refused_as_a_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="merge it"):
        require_base(tmp_path, "sft.base")
