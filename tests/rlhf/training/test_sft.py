"""Supervised fine-tuning: it learns, it is exact, and it refuses what cannot work."""

import math
from pathlib import Path

import pytest
import torch
from datasets import DatasetDict, concatenate_datasets
from trl import SFTConfig, SFTTrainer, pack_dataset

from rlhf.errors import ConfigError, DataError, ModelError, TrainingError
from rlhf.models.directory import open_directory
from rlhf.models.loading import load_policy, load_tokenizer
from rlhf.tracking import RecordingSink
from rlhf.training.rows import encode_demonstrations
from rlhf.training.settings import LoRASettings, OptimizerSettings, SFTSettings
from rlhf.training.sft import PolicyTrainer, WeightedCollator, train_sft

SETTINGS = SFTSettings(
    epochs=4,
    batch_size=16,
    max_length=64,
    logging_steps=2,
    evaluations=2,
    precision="fp32",
    optimizer=OptimizerSettings(learning_rate=1e-2),
)


def test_it_learns_the_demonstrations_and_keeps_its_curves(
    base: Path, demonstrations: DatasetDict, tmp_path: Path
) -> None:
    sink = RecordingSink()
    policy = train_sft(base, demonstrations, SETTINGS, tmp_path / "sft", sink=sink)
    assert policy.kind == "causal-lm"
    assert policy.metrics["eval/loss"] < 0.5 * math.log(400)
    assert policy.metrics["data/rows"] == 64
    assert policy.metrics["train/steps"] == 16
    assert [step for step, _ in policy.curves["sft/eval/loss"]] == [8, 16]
    assert policy.curves["sft/loss"][0][1] > policy.curves["sft/loss"][-1][1]
    assert policy.curves == {k: v for k, v in sink.curves.items() if k.startswith("sft/")}
    assert policy.training["base"] == {"digest": open_directory(base).digest}


def test_the_same_seed_gives_the_same_digest(base: Path, demonstrations: DatasetDict, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"max_steps": 2})
    first, again, other = (
        train_sft(base, demonstrations, settings, tmp_path / str(i), seed=s) for i, s in enumerate([1, 1, 2])
    )
    assert first.digest == again.digest != other.digest


@pytest.mark.parametrize("accumulated", [None, 100])
def test_the_cheaper_loss_has_the_value_and_gradients_of_trl(
    base: Path, demonstrations: DatasetDict, tmp_path: Path, accumulated: int | None
) -> None:
    tokenizer = load_tokenizer(base)
    rows = encode_demonstrations(demonstrations["train"], tokenizer, max_length=64).dataset
    outcomes = []
    for kind in (SFTTrainer, PolicyTrainer):
        config = SFTConfig(
            str(tmp_path), use_cpu=True, bf16=False, report_to=[], max_length=None, disable_tqdm=True
        )
        trainer = kind(load_policy(base), config, train_dataset=rows, processing_class=tokenizer)
        batch = trainer.data_collator([rows[i] for i in range(5)])
        count = None if accumulated is None else torch.tensor(accumulated)
        loss = trainer.compute_loss(trainer.model.train(), dict(batch), num_items_in_batch=count)
        loss.backward()
        outcomes.append((loss.item(), torch.cat([p.grad.flatten() for p in trainer.model.parameters()])))
    (expected, gradient), (loss, own) = outcomes
    assert loss == pytest.approx(expected, rel=1e-6)
    assert torch.allclose(own, gradient, atol=1e-6)


@pytest.mark.parametrize("accumulated", [None, 100])
def test_weights_of_one_are_no_weights_and_others_scale_each_rows_gradient(
    base: Path, demonstrations: DatasetDict, tmp_path: Path, accumulated: int | None
) -> None:
    tokenizer = load_tokenizer(base)
    rows = encode_demonstrations(demonstrations["train"], tokenizer, max_length=64).dataset.select(range(4))
    config = SFTConfig(str(tmp_path), use_cpu=True, bf16=False, report_to=[], disable_tqdm=True)
    model = load_policy(base)
    trainer = PolicyTrainer(model, config, train_dataset=rows, processing_class=tokenizer)
    collator = WeightedCollator(pad_token_id=tokenizer.pad_token_id)

    def gradient(weights: list[float] | None) -> torch.Tensor:
        chosen = rows if weights is None else rows.add_column("weight", weights)
        batch = (trainer.data_collator if weights is None else collator)(list(chosen))
        count = None if accumulated is None else torch.tensor(accumulated)
        model.zero_grad()
        trainer.compute_loss(model, batch, num_items_in_batch=count).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    assert torch.allclose(gradient([1.0] * 4), gradient(None), atol=1e-6)
    single = [gradient([float(i == j) for j in range(4)]) for i in range(4)]
    assert torch.allclose(
        gradient([0.0, 3.0, 0.5, 1.0]), 3 * single[1] + 0.5 * single[2] + single[3], atol=1e-6
    )


def test_rows_of_weight_zero_are_not_learnt(base: Path, demonstrations: DatasetDict, tmp_path: Path) -> None:
    train = demonstrations["train"]
    lies = train.map(lambda row: {"completion": [{"role": "assistant", "content": "zzz"}]})
    mixed = concatenate_datasets(
        [train.add_column("weight", [1.0] * len(train)), lies.add_column("weight", [0.0] * len(lies))]
    )
    settings = SETTINGS.model_copy(update={"use_weights": True})
    rows = DatasetDict(train=mixed, dev=demonstrations["dev"])
    weighted = train_sft(base, rows, settings, tmp_path / "weighted")
    plain = train_sft(base, rows, SETTINGS, tmp_path / "plain")
    assert weighted.metrics["eval/loss"] < plain.metrics["eval/loss"] - 0.1
    with pytest.raises(DataError, match="column weight"):
        train_sft(base, demonstrations, settings, tmp_path / "none")
    with pytest.raises(ValueError, match="packing"):
        SFTSettings(use_weights=True, packing=True)


def test_packed_rows_do_not_see_each_other(base: Path, demonstrations: DatasetDict, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(base)
    rows = encode_demonstrations(demonstrations["train"], tokenizer, max_length=64).dataset
    packed = pack_dataset(rows.select_columns(["input_ids", "labels"]), 128, "bfd")
    assert len(packed) < len(rows)
    losses = []
    for dataset, packing in ((rows, False), (packed, True)):
        config = SFTConfig(
            str(tmp_path), use_cpu=True, bf16=False, report_to=[], max_length=128, packing=packing,
            dataset_kwargs={"skip_prepare_dataset": True}, disable_tqdm=True,
        )  # fmt: skip
        trainer = PolicyTrainer(load_policy(base), config, train_dataset=dataset, processing_class=tokenizer)
        batch = trainer.data_collator(list(dataset))
        losses.append(trainer.compute_loss(trainer.model, batch).item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.parametrize("change", [{"packing": True}, {"micro_batch_size": 4}, {"precision": "bf16"}])
def test_packing_micro_batches_and_bf16_train(
    base: Path, demonstrations: DatasetDict, tmp_path: Path, change: dict[str, object]
) -> None:
    settings = SETTINGS.model_copy(update={"epochs": 2, **change})
    policy = train_sft(base, demonstrations, settings, tmp_path / "sft")
    assert policy.metrics["eval/loss"] < math.log(400) - 1
    assert load_policy(policy).dtype == torch.float32


def test_micro_batches_change_the_arithmetic_and_not_the_result(
    base: Path, demonstrations: DatasetDict, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"max_steps": 3, "length_grouping": False})
    whole = train_sft(base, demonstrations, settings, tmp_path / "whole")
    split = train_sft(
        base, demonstrations, settings.model_copy(update={"micro_batch_size": 4}), tmp_path / "split"
    )
    assert whole.metrics["eval/loss"] == pytest.approx(split.metrics["eval/loss"], abs=1e-3)


def test_overlong_rows_are_reported(base: Path, demonstrations: DatasetDict, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"max_length": 20, "max_steps": 1})
    metrics = train_sft(base, demonstrations, settings, tmp_path / "sft").metrics
    assert metrics["data/overlong"] > 0
    with pytest.raises(DataError, match="64 rows are longer"):
        train_sft(base, demonstrations, settings.model_copy(update={"max_length": 8}), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_an_adapter_is_merged_or_kept_as_settings_say(
    base: Path, demonstrations: DatasetDict, tmp_path: Path
) -> None:
    merged, kept = (
        train_sft(
            base,
            demonstrations,
            SETTINGS.model_copy(update={"max_steps": 4, "lora": LoRASettings(rank=4, alpha=8, merge=merge)}),
            tmp_path / str(merge),
        )
        for merge in (True, False)
    )
    assert (merged.kind, kept.kind) == ("causal-lm", "adapter")
    assert kept.training["base"] == {"digest": open_directory(base).digest}
    ids = torch.tensor([load_tokenizer(base)("Where is my lamp?")["input_ids"]])
    logits = load_policy(merged)(input_ids=ids).logits
    assert torch.allclose(load_policy(kept, base=base)(input_ids=ids).logits, logits, atol=1e-5)
    assert not torch.allclose(load_policy(base)(input_ids=ids).logits, logits, atol=1e-3)


@pytest.mark.parametrize("template", ["instruction", "chat"])
def test_a_gpt2_like_model_gets_a_template_and_padding(
    gpt2_base: Path, demonstrations: DatasetDict, tmp_path: Path, template: str
) -> None:
    settings = SETTINGS.model_copy(update={"max_steps": 3, "template": template})
    policy = train_sft(gpt2_base, demonstrations, settings, tmp_path / "sft")
    tokenizer = load_tokenizer(policy)
    assert tokenizer.chat_template
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert load_policy(policy).config.pad_token_id == tokenizer.pad_token_id


def test_chats_without_a_template_name_the_setting(
    gpt2_base: Path, demonstrations: DatasetDict, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"sft\.template"):
        train_sft(gpt2_base, demonstrations, SETTINGS, tmp_path / "sft")


def test_a_loss_that_is_not_finite_stops_and_leaves_nothing(
    base: Path, demonstrations: DatasetDict, tmp_path: Path
) -> None:
    wild = SETTINGS.model_copy(
        update={"optimizer": OptimizerSettings(learning_rate=1e30, max_gradient_norm=0.0), "logging_steps": 1}
    )
    with pytest.raises(TrainingError, match=r"lower optimizer\.learning_rate"):
        train_sft(base, demonstrations, wild, tmp_path / "sft")
    assert list(tmp_path.iterdir()) == []


def test_wrong_places_and_lengths_are_refused_before_training(
    base: Path, demonstrations: DatasetDict, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="128 positions"):
        train_sft(base, demonstrations, SETTINGS.model_copy(update={"max_length": 129}), tmp_path / "sft")
    with pytest.raises(ModelError, match="no model directory"):
        train_sft(tmp_path / "nowhere", demonstrations, SETTINGS, tmp_path / "sft")
    with pytest.raises(ModelError, match="not empty"):
        train_sft(base, demonstrations, SETTINGS, base)
    with pytest.raises(DataError, match="no demonstrations"):
        train_sft(base, DatasetDict(), SETTINGS, tmp_path / "sft")
