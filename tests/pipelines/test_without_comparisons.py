"""Reward-labelled answers in, a policy out: the whole pipeline without a single comparison."""

import json

import pytest
import yaml
from datasets import DatasetDict
from zenml.models import PipelineRunResponse

from ops import launch
from ops.model_cards import lineage_of
from rlhf.models.directory import ModelDirectory
from tests.pipelines.conftest import TINY, finished

ANSWERS = {"I am sorry. It is on its way.": 4.5, "It is late.": 2.5, "No idea.": 1.0}


@pytest.fixture(scope="module")
def rewarded_run(
    first_run: PipelineRunResponse, tmp_path_factory: pytest.TempPathFactory
) -> PipelineRunResponse:
    # After the first run, whose tests want a state folder without a champion.
    folder = tmp_path_factory.mktemp("rewarded")
    texts = list(ANSWERS)
    pairs = [[f"Where is my order {number}?", texts[number % 3]] for number in range(240)]
    rewards = [ANSWERS[answer] for _, answer in pairs]
    (folder / "rewards.json").write_text(json.dumps({"samples": pairs, "rewards": rewards}))
    config = yaml.safe_load(TINY.read_text())
    parameters = config["parameters"]
    parameters["feedback"]["sources"][0]["settings"] |= {"comparisons": 0, "rated_share": 0.0}
    parameters["feedback"]["sources"].append({"type": "file", "path": str(folder / "rewards.json")})
    parameters["reward_model"]["objective"] = "regression"
    parameters["evaluation"]["rewards"] = {}  # gold knows only the questions of the sample
    (folder / "rewarded.yaml").write_text(yaml.safe_dump(config))
    return finished(launch.run(str(folder / "rewarded.yaml")))


def test_every_reward_model_is_fitted_to_their_fold_of_the_rewards(
    rewarded_run: PipelineRunResponse,
) -> None:
    ratings = rewarded_run.steps["prepare_datasets"].outputs["ratings"][0].load()
    assert isinstance(ratings, DatasetDict)
    assert set(ratings["train"]["rating"]) == set(ANSWERS.values())
    for fold, role in enumerate(("proxy", "selection", "judge")):
        model = rewarded_run.steps[f"train_{role}_reward_model"].outputs["reward_model"][0].load()
        assert isinstance(model, ModelDirectory)
        assert model.metrics["data/rows"] == ratings["train"]["fold"][:].count(fold)
        assert {"test/spearman", "test/r2", "test/bag_of_words_r2", "test/mean_rmse"} <= set(model.metrics)


def test_the_policy_is_trained_and_judged_without_comparisons(rewarded_run: PipelineRunResponse) -> None:
    assert rewarded_run.steps["train_policy"].status.value == "completed"
    report = rewarded_run.steps["evaluate_policy"].outputs["evaluation"][0].load()
    metrics = report.data["metrics"]
    assert {"eval/proxy/difference_vs_sft", "eval/selection/difference_vs_sft", "eval/kl"} <= set(metrics)
    assert not [name for name in metrics if "agreement" in name or "/rm/" in name]


def test_the_policys_lineage_names_the_ratings(rewarded_run: PipelineRunResponse) -> None:
    [ratings] = rewarded_run.steps["prepare_datasets"].outputs["ratings"]
    assert lineage_of(rewarded_run, {}).data["ratings"] == ratings.content_hash
