"""A base model from text alone."""

import math
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from rlhf.errors import DataError
from rlhf.models.loading import load_policy, load_tokenizer
from rlhf.tracking import RecordingSink
from rlhf.training.pretrain import pretrain
from rlhf.training.settings import ArchitectureSettings, OptimizerSettings, PretrainSettings

SETTINGS = PretrainSettings(
    vocabulary_size=400,
    architecture=ArchitectureSettings(hidden_size=32, layers=2, heads=2, ffn_size=48, max_positions=128),
    max_length=64,
    steps=30,
    batch_size=16,
    precision="fp32",
    optimizer=OptimizerSettings(learning_rate=1e-2),
)


@pytest.mark.parametrize("packing", ["wrapped", "documents"])
def test_training_lowers_the_perplexity_of_unseen_text(
    texts: DatasetDict, tmp_path: Path, packing: str
) -> None:
    sink = RecordingSink()
    start = pretrain(texts, SETTINGS.model_copy(update={"steps": 0}), tmp_path / "start")
    settings = SETTINGS.model_copy(update={"packing": packing})
    end = pretrain(texts, settings, tmp_path / "end", sink=sink)
    assert end.metrics["eval/loss"] < start.metrics["eval/loss"] - 1.0
    assert end.metrics["eval/perplexity"] == pytest.approx(math.exp(end.metrics["eval/loss"]))
    assert end.metrics["train/steps"] == 30
    assert end.curves["pretrain/loss"] == sink.curves["pretrain/loss"]


def test_without_steps_the_network_is_only_initialised(texts: DatasetDict, tmp_path: Path) -> None:
    directory = pretrain(texts, SETTINGS.model_copy(update={"steps": 0}), tmp_path / "m", seed=4)
    assert "train/loss" not in directory.metrics
    vocabulary = len(load_tokenizer(directory))
    assert directory.metrics["eval/loss"] == pytest.approx(math.log(vocabulary), rel=0.1)
    assert load_policy(directory).config.use_cache


def test_the_same_seed_and_text_give_the_same_model(texts: DatasetDict, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"steps": 2})
    first, again, other = (
        pretrain(texts, settings, tmp_path / str(i), seed=s) for i, s in enumerate([1, 1, 2])
    )
    assert first.digest == again.digest != other.digest


def test_text_longer_than_a_block_is_learnt_in_full(tmp_path: Path) -> None:
    texts = DatasetDict(train=Dataset.from_dict({"text": ["the lamp is late " * 200]}))
    directory = pretrain(texts, SETTINGS.model_copy(update={"steps": 0}), tmp_path / "m")
    tokenizer = load_tokenizer(directory)
    assert directory.metrics["data/tokens"] == len(tokenizer(texts["train"]["text"][0])["input_ids"]) + 1


def test_no_text_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="text column"):
        pretrain(DatasetDict(train=Dataset.from_dict({"prompt": ["a"]})), SETTINGS, tmp_path / "m")
    with pytest.raises(DataError, match="no text"):
        pretrain(DatasetDict(train=Dataset.from_dict({"text": []})), SETTINGS, tmp_path / "m")
    assert not (tmp_path / "m").exists()
