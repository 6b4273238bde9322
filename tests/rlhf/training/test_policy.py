"""The stage behind the step: whatever the algorithm, a sealed policy and the same frontier."""

import json
import shutil
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from rlhf.errors import DataError
from rlhf.evaluation.frontier import frontier_from_samples
from rlhf.models.settings_generation import GenerationSettings
from rlhf.models.settings_rewards import (
    FunctionRewardSettings,
    MixRewardSettings,
    ProxyRewardSettings,
    RewardModelRewardSettings,
)
from rlhf.tracking import NullSink
from rlhf.training.policy import TrainedPolicy, train_policy
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.reward_model import train_reward_model
from rlhf.training.settings import RewardModelSettings
from rlhf.training.settings_policy import (
    DPOSettings,
    GRPOSettings,
    KTOSettings,
    PolicySettings,
    RLOOSettings,
    algorithm_of,
)
from tests.rlhf.training.conftest import question

SHARED = {"generation": GenerationSettings(max_new_tokens=6), "precision": "fp32", "evaluate_every": 1}
SETTINGS: dict[str, PolicySettings] = {
    "ppo": PPOSettings(updates=2, rollout_batch_size=8, learning_rate=1e-3, **SHARED),
    "rloo": RLOOSettings(updates=2, rollout_batch_size=8, **SHARED),
    "grpo": GRPOSettings(updates=2, rollout_batch_size=8, **SHARED),
    "dpo": DPOSettings(max_steps=2, batch_size=8, **SHARED),
    "kto": KTOSettings(max_steps=2, batch_size=8, **SHARED),
}
PROMPTS = DatasetDict(
    train=Dataset.from_list([{"prompt": question(i)} for i in range(16)]),
    dev=Dataset.from_list([{"prompt": question(100 + i)} for i in range(6)]),
)


@pytest.fixture(scope="module")
def reward_model(base: Path, comparisons: DatasetDict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = RewardModelSettings(max_steps=2, batch_size=8, max_length=64, precision="fp32")
    return train_reward_model(base, comparisons, settings, tmp_path_factory.mktemp("rm") / "model").path


def train(
    base: Path, reward_model: Path, out: Path, settings: PolicySettings, **options: object
) -> TrainedPolicy:
    given = {"prompts": PROMPTS, **options}
    return train_policy(
        base, proxy=reward_model, selection=reward_model, settings=settings, seed=1, sink=NullSink(),
        output_dir=out / "policy", work_dir=out / "work", **given,
    )  # type: ignore[arg-type] # fmt: skip


@pytest.mark.parametrize("algorithm", SETTINGS)
def test_every_algorithm_gives_a_sealed_policy_and_the_same_frontier(
    base: Path, reward_model: Path, comparisons: DatasetDict, tmp_path: Path, algorithm: str
) -> None:
    result = train(base, reward_model, tmp_path, SETTINGS[algorithm], comparisons=comparisons)
    assert result.policy.kind == "causal-lm"
    assert result.policy.training[algorithm]["seed"] == 1
    assert f"{algorithm}/best_update" in result.policy.metrics
    assert f"{algorithm}_eval/selection_reward" in result.policy.curves
    assert result.frontier.column_names == [
        "update", "chosen", "kl", "prompt", "completion", "proxy", "selection",
    ]  # fmt: skip
    points = frontier_from_samples(result.frontier, {})
    assert [point.update for point in points] == [0, 1, 2]
    assert sum(point.chosen for point in points) == 1
    assert result.frontier["proxy"][:] == result.frontier["selection"][:]
    assert algorithm_of(SETTINGS[algorithm]) == algorithm


def test_a_named_reward_is_maximised_in_place_of_the_proxy(
    base: Path, reward_model: Path, tmp_path: Path
) -> None:
    mix = MixRewardSettings(
        rewards=(
            ProxyRewardSettings(),
            FunctionRewardSettings(function="tests.rlhf.training.test_policy:ten"),
        ),
        weights=(1.0, 1.0),
    )
    frontier = train(base, reward_model, tmp_path, SETTINGS["rloo"], reward=mix).frontier
    gaps = [one - other for one, other in zip(frontier["proxy"], frontier["selection"], strict=True)]
    assert gaps == pytest.approx([10.0] * len(frontier), abs=1e-4)


def ten(prompts: list[object], completions: list[str]) -> list[float]:
    """The same for all."""
    return [10.0] * len(completions)


def test_the_policys_digest_names_a_rewards_content_and_not_its_place(
    base: Path, reward_model: Path, tmp_path: Path
) -> None:
    reward = RewardModelRewardSettings(path=reward_model)
    policy = train(base, reward_model, tmp_path, SETTINGS["grpo"], reward=reward).policy
    assert str(reward_model) not in json.dumps(policy.training)
    assert len(policy.training["reward"]["path"]) == 64


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_an_interrupted_training_is_continued_and_that_of_another_reward_starts_anew(
    base: Path, reward_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, algorithm: str
) -> None:
    caplog.set_level("INFO")
    settings = SETTINGS[algorithm].model_copy(update={"checkpoint_every": 1, "keep_checkpoints": 2})
    ten_more = FunctionRewardSettings(function="tests.rlhf.training.test_policy:ten")

    def continued(**options: object) -> TrainedPolicy:
        caplog.clear()
        shutil.rmtree(tmp_path / "policy", ignore_errors=True)
        return train(base, reward_model, tmp_path, settings, resume=True, **options)

    first = continued()
    shutil.rmtree(tmp_path / "work" / algorithm / "checkpoints" / "update-00000002")
    assert continued().policy.digest == first.policy.digest
    assert "after update 1 from" in caplog.text
    other = continued(reward=ten_more)
    assert "Training starts anew: The checkpoint" in caplog.text
    assert "other" in caplog.text
    assert "reward" in caplog.text
    assert set(other.frontier["proxy"]) == {10.0}


def test_dpo_without_comparisons_is_an_error(base: Path, reward_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training comparisons in fold 0, which dpo learns from"):
        train(base, reward_model, tmp_path, SETTINGS["dpo"])
    assert not (tmp_path / "policy").exists()


def test_no_dev_prompts_to_choose_by_is_an_error(base: Path, reward_model: Path, tmp_path: Path) -> None:
    prompts = DatasetDict(train=PROMPTS["train"], dev=PROMPTS["dev"].select([]))
    with pytest.raises(DataError, match="No prompts in the dev split"):
        train(base, reward_model, tmp_path, SETTINGS["rloo"], prompts=prompts)
