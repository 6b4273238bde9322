"""The reward model of ratings: its loss and scale, its figures, and that it is a reward like any other."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from pydantic import ValidationError

from rlhf.errors import DataError
from rlhf.feedback.rows import Message
from rlhf.models.loading import load_reward_model, load_tokenizer
from rlhf.models.reward_classifiers import RewardModelReward
from rlhf.training.reward_model import train_reward_model
from rlhf.training.rows import encode_ratings, sequence_scores
from rlhf.training.settings import LoRASettings, OptimizerSettings, RewardModelSettings

SETTINGS = RewardModelSettings(
    objective="regression",
    epochs=3,
    batch_size=16,
    max_length=120,
    logging_steps=1,
    evaluations=2,
    precision="fp32",
    optimizer=OptimizerSettings(learning_rate=3e-3),
)
ANSWERS = {"It is on its way.": 4.5, "It may be late.": 3.0, "I have no idea, write to us again.": 1.0}


def rating_rows(first: int, count: int, **more: Any) -> Dataset:
    texts = list(ANSWERS)
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": f"Where is my order {i:03d}?"}],
                "completion": [{"role": "assistant", "content": texts[i % 3]}],
                "rating": ANSWERS[texts[i % 3]],
                "question": "reward",
                "fold": i % 2,
                "record_id": f"r{i}",
                **more,
            }
            for i in range(first, first + count)
        ]
    )


@pytest.fixture(scope="module")
def ratings() -> DatasetDict:
    return DatasetDict(train=rating_rows(0, 66), dev=rating_rows(500, 12), test=rating_rows(700, 30))


def test_it_learns_the_ratings_and_reports_beside_the_baselines(
    base: Path, ratings: DatasetDict, tmp_path: Path
) -> None:
    model = train_reward_model(base, ratings, SETTINGS, tmp_path / "rm", seed=1, prefix="reward/proxy/")
    figures = model.metrics
    assert model.kind == "reward-model"
    assert figures["test/spearman"] > 0.9
    assert figures["test/r2"] > 0.8
    assert figures["test/pearson_low"] <= figures["test/pearson"] <= figures["test/pearson_high"]
    assert figures["test/rmse"] < figures["test/mean_rmse"] == pytest.approx(1.43, abs=0.05)
    assert figures["test/bag_of_words_r2"] > 0.95
    assert (figures["test/ratings"], figures["eval/ratings"], figures["data/rows"]) == (30, 12, 66)
    assert [step for step, _ in model.curves["reward/proxy/eval/r2"]] == [8, 15]
    assert model.training["rating_mean"] == pytest.approx(np.mean(list(ANSWERS.values())))
    assert model.training["rating_std"] == pytest.approx(np.std(list(ANSWERS.values())))


def test_answers_without_words_only_cost_the_figures_of_the_ridge(
    base: Path, ratings: DatasetDict, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    marks = DatasetDict(
        {
            split: rows.map(lambda row: {"completion": [{"role": "assistant", "content": "!"}]})
            for split, rows in ratings.items()
        }
    )
    figures = train_reward_model(base, marks, SETTINGS, tmp_path / "rm").metrics
    assert "test/mean_rmse" in figures
    assert "test/bag_of_words_rmse" not in figures
    assert "bag of words are left out" in caplog.text


def test_it_is_a_reward_whose_scores_are_standardised_ratings(
    base: Path, ratings: DatasetDict, tmp_path: Path
) -> None:
    model = train_reward_model(base, ratings, SETTINGS, tmp_path / "rm", seed=1)
    prompts = [[Message(role="user", content="Where is my order 703?")]] * 3
    scores = RewardModelReward(model.path)(prompts, list(ANSWERS))
    units = np.array(scores) * model.training["rating_std"] + model.training["rating_mean"]
    assert units == pytest.approx(list(ANSWERS.values()), abs=0.8)


def test_the_reported_figures_are_those_of_the_saved_model_in_the_ratings_unit(
    base: Path, ratings: DatasetDict, tmp_path: Path
) -> None:
    directory = train_reward_model(base, ratings, SETTINGS, tmp_path / "rm")
    model, tokenizer = load_reward_model(directory), load_tokenizer(directory)
    assert model.config.problem_type == "regression"
    rows = encode_ratings(ratings["test"], tokenizer, max_length=120).dataset
    scores = np.array(sequence_scores(model, rows["input_ids"][:], tokenizer.pad_token_id))
    mean, std = directory.training["rating_mean"], directory.training["rating_std"]
    error = scores * std + mean - np.array(rows["rating"])
    assert directory.metrics["test/rmse"] == pytest.approx(float(np.sqrt((error**2).mean())), abs=1e-4)
    assert directory.metrics["test/loss"] == pytest.approx(float((error**2).mean() / std**2), abs=1e-4)


def test_micro_batches_give_the_gradient_of_the_whole_batch(
    base: Path, ratings: DatasetDict, tmp_path: Path
) -> None:
    norms = []
    for micro in (16, 4):
        settings = SETTINGS.model_copy(update={"max_steps": 1, "micro_batch_size": micro})
        directory = train_reward_model(base, ratings, settings, tmp_path / str(micro))
        norms.append(directory.curves["reward/grad_norm"][0][1])
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)
    assert norms[0] > 0


def test_whole_texts_are_learnt_as_plain_text(base: Path, tmp_path: Path) -> None:
    rows = rating_rows(0, 30).remove_columns("prompt").add_column("prompt", [[]] * 30)
    tokenizer = load_tokenizer(base)
    (ids, *_) = encode_ratings(rows, tokenizer, max_length=120).dataset["input_ids"][:]
    assert ids == [*tokenizer("It is on its way.")["input_ids"], tokenizer.eos_token_id]
    settings = SETTINGS.model_copy(update={"max_steps": 1})
    assert (
        train_reward_model(base, DatasetDict(train=rows), settings, tmp_path / "rm").metrics["data/rows"]
        == 30
    )


@pytest.mark.parametrize("merge", [True, False])
def test_an_adapter_with_its_score_head_is_merged_or_kept(
    base: Path, ratings: DatasetDict, tmp_path: Path, merge: bool
) -> None:
    settings = SETTINGS.model_copy(update={"lora": LoRASettings(rank=4, merge=merge)})
    directory = train_reward_model(base, ratings, settings, tmp_path / "rm")
    assert directory.kind == ("reward-model" if merge else "adapter")
    assert directory.training["rating_std"] > 0
    assert directory.metrics["test/r2"] > 0.3


def test_an_encoder_becomes_a_reward_model_too(
    roberta_base: Path, ratings: DatasetDict, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"template": "instruction", "max_length": 150, "epochs": 6})
    directory = train_reward_model(roberta_base, ratings, settings, tmp_path / "rm")
    assert directory.metrics["test/spearman"] > 0.5


def test_a_fold_trains_on_its_own_rows_only(base: Path, ratings: DatasetDict, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"max_steps": 1})
    first, second = (train_reward_model(base, ratings, settings, tmp_path / str(f), fold=f) for f in (0, 1))
    assert first.metrics["data/rows"] == second.metrics["data/rows"] == 33
    assert first.digest != second.digest


def test_overlong_rows_are_left_out_and_counted(base: Path, ratings: DatasetDict, tmp_path: Path) -> None:
    long = [{"role": "assistant", "content": "much longer " * 40}]
    rows = DatasetDict(
        train=ratings["train"].map(
            lambda r: {"completion": long} if r["record_id"] == "r5" else {"completion": r["completion"]}
        )
    )
    settings = SETTINGS.model_copy(update={"max_steps": 1})
    metrics = train_reward_model(base, rows, settings, tmp_path / "rm").metrics
    assert (metrics["data/rows"], metrics["data/dropped"]) == (65, 1)
    assert not [name for name in metrics if name.startswith(("test/", "eval/"))]


@pytest.mark.parametrize(
    ("train", "settings", "message"),
    [
        (rating_rows(0, 0), SETTINGS, "no training ratings.*objective pairwise"),
        (rating_rows(0, 6, rating=3.0), SETTINGS, "All 6 training ratings are 3"),
        (
            rating_rows(0, 6).add_column("x", [0] * 6).map(lambda r: {"question": f"q{r['fold']}"}),
            SETTINGS,
            r"several questions \(q0, q1\)",
        ),
        (rating_rows(0, 6), SETTINGS.model_copy(update={"rating_question": "tone"}), "'tone', only reward"),
        (
            rating_rows(0, 6),
            SETTINGS.model_copy(update={"max_length": 8}),
            "All of 6 rated answers",
        ),
        (rating_rows(0, 6).remove_columns("rating"), SETTINGS, "lack the columns rating"),
        (rating_rows(0, 6), RewardModelSettings(max_length=120), "lack the columns chosen, rejected"),
    ],
)
def test_what_cannot_be_learnt_is_refused_before_training(
    base: Path, tmp_path: Path, train: Dataset, settings: RewardModelSettings, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        train_reward_model(base, DatasetDict(train=train), settings, tmp_path / "rm")
    assert not (tmp_path / "rm").exists()


def test_one_of_several_questions_is_learnt(base: Path, tmp_path: Path) -> None:
    rows = rating_rows(0, 12).map(lambda r: {"question": "tone" if r["fold"] else "truth"})
    settings = SETTINGS.model_copy(update={"rating_question": "tone", "max_steps": 1})
    metrics = train_reward_model(base, DatasetDict(train=rows), settings, tmp_path / "rm").metrics
    assert metrics["data/rows"] == 6


def test_without_comparisons_the_error_names_the_objective_for_rewards(base: Path, tmp_path: Path) -> None:
    nothing, settings = DatasetDict(train=Dataset.from_dict({})), RewardModelSettings(max_length=120)
    with pytest.raises(DataError, match=r"no training comparisons.*reward_model\.objective to regression"):
        train_reward_model(base, nothing, settings, tmp_path / "rm")


@pytest.mark.parametrize(
    "wrong",
    [
        {"objective": "regression", "use_weights": True},
        {"objective": "regression", "use_margins": True},
        {"rating_question": "tone"},
    ],
)
def test_settings_of_the_other_objective_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="belong"):
        RewardModelSettings(**wrong)
