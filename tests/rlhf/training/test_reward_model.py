"""The reward model: its loss, its figures, and any base it can stand on."""

from pathlib import Path

import pytest
import torch
from datasets import DatasetDict
from trl import RewardConfig, RewardTrainer

from rlhf.errors import ConfigError, DataError
from rlhf.evaluation.intervals import wilson_interval
from rlhf.models.loading import load_reward_model, load_tokenizer
from rlhf.tracking import RecordingSink
from rlhf.training.reward_model import (
    PreferenceCollator,
    PreferenceTrainer,
    preference_loss,
    train_reward_model,
)
from rlhf.training.rows import encode_pairs, pair_scores
from rlhf.training.settings import LoRASettings, OptimizerSettings, RewardModelSettings

SETTINGS = RewardModelSettings(
    epochs=2,
    batch_size=16,
    max_length=120,
    logging_steps=1,
    evaluations=2,
    precision="fp32",
    optimizer=OptimizerSettings(learning_rate=3e-3),
)
CHOSEN, REJECTED = torch.tensor([1.0, 0.2, -0.3]), torch.tensor([0.5, 0.4, -2.0])
ONES, ZEROS = torch.ones(3), torch.zeros(3)


def test_the_loss_is_the_bradley_terry_likelihood() -> None:
    loss = preference_loss(CHOSEN, REJECTED, weight=ONES, margin=ZEROS, center_coefficient=None)
    assert loss.item() == pytest.approx(-torch.log(torch.sigmoid(CHOSEN - REJECTED)).mean().item())


def test_a_margin_raises_the_loss_as_if_the_gap_were_smaller() -> None:
    plain = preference_loss(CHOSEN, REJECTED, weight=ONES, margin=ZEROS, center_coefficient=None)
    asked = preference_loss(CHOSEN, REJECTED, weight=ONES, margin=ONES, center_coefficient=None)
    closer = preference_loss(CHOSEN - 1, REJECTED, weight=ONES, margin=ZEROS, center_coefficient=None)
    assert asked.item() == pytest.approx(closer.item())
    assert asked > plain


def test_a_soft_label_is_the_expected_loss_of_both_outcomes() -> None:
    def loss(probability: torch.Tensor | None, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return preference_loss(
            first, second, weight=ONES, margin=ZEROS, center_coefficient=0.1, probability=probability
        )

    hard, turned = loss(None, CHOSEN, REJECTED), loss(None, REJECTED, CHOSEN)
    assert loss(ONES, CHOSEN, REJECTED).item() == hard.item()
    soft = loss(torch.full((3,), 0.7), CHOSEN, REJECTED)
    assert soft.item() == pytest.approx(0.7 * hard.item() + 0.3 * turned.item())


def test_a_soft_label_is_best_fitted_by_its_log_odds() -> None:
    difference = torch.tensor([0.0], requires_grad=True)
    probability = torch.tensor([0.8])
    for _ in range(400):
        (gradient,) = torch.autograd.grad(
            preference_loss(
                difference,
                torch.zeros(1),
                weight=torch.ones(1),
                margin=torch.zeros(1),
                center_coefficient=None,
                probability=probability,
            ),
            difference,
        )
        difference = (difference - gradient).detach().requires_grad_()
    assert difference.item() == pytest.approx(torch.logit(probability).item(), abs=1e-4)


def test_a_pair_of_weight_zero_has_no_gradient() -> None:
    chosen = CHOSEN.clone().requires_grad_()
    weight = torch.tensor([1.0, 0.0, 2.0])
    preference_loss(chosen, REJECTED, weight=weight, margin=ZEROS, center_coefficient=0.1).backward()
    assert chosen.grad is not None
    assert chosen.grad[1] == 0
    assert (chosen.grad[[0, 2]] != 0).all()


@pytest.mark.parametrize("coefficient", [None, 0.01])
def test_without_weights_the_loss_is_that_of_trl(
    base: Path, comparisons: DatasetDict, tmp_path: Path, coefficient: float | None
) -> None:
    tokenizer = load_tokenizer(base)
    pairs = encode_pairs(comparisons["train"], tokenizer, max_length=120, margins=True).dataset
    torch.manual_seed(0)
    model = load_reward_model(base)
    config = RewardConfig(
        str(tmp_path), use_cpu=True, bf16=False, report_to=[], max_length=None, disable_tqdm=True,
        center_rewards_coefficient=coefficient,
    )  # fmt: skip
    batch = PreferenceCollator(pad_token_id=tokenizer.pad_token_id)(list(pairs.select(range(8))))
    losses = []
    for kind, left_out in ((RewardTrainer, {"weight", "agreement"}), (PreferenceTrainer, set())):
        trainer = kind(model, config, train_dataset=pairs, processing_class=tokenizer)
        inputs = {k: v for k, v in batch.items() if k not in left_out}
        losses.append(trainer.compute_loss(model, inputs).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_our_ids_are_those_of_trl(base: Path, comparisons: DatasetDict, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(base)
    config = RewardConfig(str(tmp_path), use_cpu=True, report_to=[], disable_tqdm=True)
    rows = comparisons["dev"].select_columns(["prompt", "chosen", "rejected"])
    theirs = RewardTrainer(
        load_reward_model(base), config, train_dataset=rows, processing_class=tokenizer
    ).train_dataset
    ours = encode_pairs(rows, tokenizer, max_length=128).dataset
    for side in ("chosen_ids", "rejected_ids"):
        assert ours[side][:] == theirs[side][:]


def test_it_learns_to_prefer_and_reports_beside_the_baselines(
    base: Path, comparisons: DatasetDict, tmp_path: Path
) -> None:
    sink = RecordingSink()
    model = train_reward_model(
        base, comparisons, SETTINGS, tmp_path / "rm", seed=1, sink=sink, prefix="reward/proxy/"
    )
    figures = model.metrics
    assert model.kind == "reward-model"
    assert figures["test/accuracy"] > 0.9
    interval = wilson_interval(figures["test/accuracy"] * 20, 20)
    assert (figures["test/accuracy_low"], figures["test/accuracy_high"]) == (interval.low, interval.high)
    assert figures["test/longer_wins_accuracy"] == 0.0  # the rejected answers are the longer ones
    assert figures["test/bag_of_words_accuracy"] == 1.0
    assert figures["test/pairs"] == 20
    assert figures["data/rows"] == 64
    assert [step for step, _ in model.curves["reward/proxy/eval/accuracy"]] == [4, 8]
    assert model.curves["reward/proxy/test/accuracy"] == [(8, figures["test/accuracy"])]


def test_answers_without_words_only_cost_the_figures_of_the_bag_of_words(
    base: Path, comparisons: DatasetDict, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def wordless(row: dict[str, object]) -> dict[str, object]:
        return {
            side: [{"role": "assistant", "content": text}]
            for side, text in (("chosen", "!"), ("rejected", "??"))
        }

    marks = DatasetDict({split: rows.map(wordless) for split, rows in comparisons.items()})
    figures = train_reward_model(base, marks, SETTINGS, tmp_path / "rm").metrics
    assert figures["test/longer_wins_accuracy"] == 0.0
    assert "test/bag_of_words_accuracy" not in figures
    assert "bag of words are left out" in caplog.text


def test_the_reported_figures_are_those_of_the_saved_model(
    base: Path, comparisons: DatasetDict, tmp_path: Path
) -> None:
    directory = train_reward_model(base, comparisons, SETTINGS, tmp_path / "rm")
    model, tokenizer = load_reward_model(directory), load_tokenizer(directory)
    pairs = encode_pairs(comparisons["dev"], tokenizer, max_length=120).dataset
    chosen, rejected = (torch.tensor(s) for s in pair_scores(model, pairs, tokenizer.pad_token_id))
    rewards = torch.cat([chosen, rejected])
    assert directory.metrics["eval/accuracy"] == (chosen > rejected).float().mean()
    assert directory.metrics["eval/reward_mean"] == pytest.approx(rewards.mean().item(), abs=1e-5)
    assert directory.metrics["eval/reward_std"] == pytest.approx(rewards.std(correction=0).item(), abs=1e-5)


def test_centring_adds_the_weighted_squared_sum_of_both_rewards() -> None:
    plain = preference_loss(CHOSEN, REJECTED, weight=ONES, margin=ZEROS, center_coefficient=None)
    centred = preference_loss(CHOSEN, REJECTED, weight=ONES, margin=ZEROS, center_coefficient=0.5)
    assert (centred - plain).item() == pytest.approx(0.5 * ((CHOSEN + REJECTED) ** 2).mean().item())


def test_a_fold_trains_on_its_own_rows_only(base: Path, comparisons: DatasetDict, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"max_steps": 1})
    first, second = (
        train_reward_model(base, comparisons, settings, tmp_path / str(f), fold=f) for f in (0, 1)
    )
    assert first.metrics["data/rows"] == second.metrics["data/rows"] == 32
    assert first.digest != second.digest
    with pytest.raises(DataError, match="fold 7"):
        train_reward_model(base, comparisons, settings, tmp_path / "7", fold=7)
    unfolded = DatasetDict(train=comparisons["train"].remove_columns("fold"))
    with pytest.raises(DataError, match="no fold column"):
        train_reward_model(base, unfolded, settings, tmp_path / "7", fold=0)


def test_weights_and_margins_count_only_when_settings_say_so(
    base: Path, comparisons: DatasetDict, tmp_path: Path
) -> None:
    plain = SETTINGS.model_copy(update={"max_steps": 2})
    other = DatasetDict(comparisons)
    other["train"] = comparisons["train"].map(
        lambda row: {"weight": float(row["record_id"] < "c3"), "margin": 2.0}
    )

    def weights(name: str, rows: DatasetDict, **change: object) -> dict[str, torch.Tensor]:
        settings = plain.model_copy(update=change)
        return load_reward_model(train_reward_model(base, rows, settings, tmp_path / name)).state_dict()

    def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
        return all(torch.equal(a[k], b[k]) for k in a)

    reference = weights("a", comparisons)
    assert same(reference, weights("b", other))
    assert not same(reference, weights("c", other, use_weights=True))
    divided = DatasetDict(comparisons)
    divided["train"] = comparisons["train"].add_column("agreement", [0.6] * len(comparisons["train"]))
    assert same(reference, weights("x", divided))
    assert not same(reference, weights("y", divided, soft_labels=True))
    with pytest.raises(DataError, match="agreement"):
        weights("z", comparisons, soft_labels=True)
    assert not same(reference, weights("d", other, use_margins=True))
    nothing = DatasetDict(train=comparisons["train"].map(lambda row: {"weight": 0.0}))
    with pytest.raises(DataError, match="weight 0"):
        weights("e", nothing, use_weights=True)


def test_pairs_left_out_for_their_length_are_reported(
    base: Path, comparisons: DatasetDict, tmp_path: Path
) -> None:
    rows = DatasetDict(comparisons)
    long = [{"role": "assistant", "content": "much longer " * 30}]
    rows["train"] = comparisons["train"].map(
        lambda row: {"rejected": long if row["record_id"] == "c5" else row["rejected"]}
    )
    metrics = train_reward_model(
        base, rows, SETTINGS.model_copy(update={"max_steps": 1}), tmp_path / "rm"
    ).metrics
    assert (metrics["data/rows"], metrics["data/dropped"]) == (63, 1)


def test_splits_that_are_absent_have_no_figures(base: Path, comparisons: DatasetDict, tmp_path: Path) -> None:
    rows = DatasetDict(train=comparisons["train"])
    metrics = train_reward_model(
        base, rows, SETTINGS.model_copy(update={"max_steps": 1}), tmp_path / "rm"
    ).metrics
    assert not [name for name in metrics if name.startswith(("test/", "eval/"))]


@pytest.mark.parametrize("merge", [True, False])
def test_an_adapter_with_its_score_head_is_merged_or_kept(
    base: Path, comparisons: DatasetDict, tmp_path: Path, merge: bool
) -> None:
    settings = SETTINGS.model_copy(update={"lora": LoRASettings(rank=4, merge=merge)})
    directory = train_reward_model(base, comparisons, settings, tmp_path / "rm")
    assert directory.kind == ("reward-model" if merge else "adapter")
    model = load_reward_model(directory, base=None if merge else base)
    tokenizer = load_tokenizer(directory)
    pairs = encode_pairs(comparisons["test"], tokenizer, max_length=120).dataset
    chosen, rejected = (torch.tensor(s) for s in pair_scores(model, pairs, tokenizer.pad_token_id))
    assert directory.metrics["test/accuracy"] == pytest.approx((chosen > rejected).float().mean().item())


@pytest.mark.parametrize("fixture", ["gpt2_base", "roberta_base"])
def test_a_gpt2_like_decoder_and_a_roberta_like_encoder_become_reward_models(
    request: pytest.FixtureRequest, comparisons: DatasetDict, tmp_path: Path, fixture: str
) -> None:
    settings = SETTINGS.model_copy(update={"template": "instruction", "max_length": 150, "epochs": 4})
    directory = train_reward_model(request.getfixturevalue(fixture), comparisons, settings, tmp_path / "rm")
    tokenizer = load_tokenizer(directory)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert load_reward_model(directory).config.num_labels == 1
    assert directory.metrics["test/accuracy"] > 0.9


def test_an_encoder_without_room_for_the_sequences_is_refused(
    roberta_base: Path, comparisons: DatasetDict, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"template": "instruction", "max_length": 161})
    with pytest.raises(ConfigError, match="positions"):
        train_reward_model(roberta_base, comparisons, settings, tmp_path / "rm")


def test_margins_and_soft_labels_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="leave one out"):
        RewardModelSettings(use_margins=True, soft_labels=True)
