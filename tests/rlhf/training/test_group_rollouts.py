"""RLOO and GRPO: that they learn, and that rollouts, scores and figures are PPO's."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from rlhf.errors import DataError, TrainingError
from rlhf.models.chat import Prompt
from rlhf.tracking import RecordingSink
from rlhf.training.group_rollouts import train_on_rollouts
from rlhf.training.policy_result import PolicyResult
from rlhf.training.settings import OptimizerSettings
from rlhf.training.settings_policy import GRPOSettings, RLOOSettings
from tests.rlhf.training.conftest import question

PROMPTS = [question(i) for i in range(20)]
DEV = [question(100 + i) for i in range(32)]
KINDS = {"rloo": RLOOSettings, "grpo": GRPOSettings}


def short(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
    """Likes short completions."""
    return [-float(len(c)) for c in completions]


def train(base: Path, out: Path, algorithm: str, **changes: object) -> PolicyResult:
    options = {
        name: changes.pop(name) for name in ("reward", "prompts", "sink", "dev_prompts") if name in changes
    }
    values = {
        "updates": 2,
        "rollout_batch_size": 16,
        "group_size": 4,
        "optimizer": OptimizerSettings(learning_rate=1e-2, schedule="constant", warmup_fraction=0.0),
        "generation": {"max_new_tokens": 8},
        "precision": "fp32",
        **changes,
    }
    settings = KINDS[algorithm](**values)
    return train_on_rollouts(
        base, **{"reward": short, "prompts": PROMPTS, "settings": settings, "output_dir": out, **options}
    )


@pytest.mark.parametrize("algorithm", KINDS)
def test_the_reward_that_is_maximised_rises(base: Path, tmp_path: Path, algorithm: str) -> None:
    found = train(
        base, tmp_path / "out", algorithm, updates=12, rollout_batch_size=64, mini_batches=2,
        kl_coefficient=0.0, dev_prompts=DEV,
    )  # fmt: skip
    assert found.evaluations[-1].reward > found.evaluations[0].reward + 2.0


@pytest.mark.parametrize("algorithm", KINDS)
def test_figures_have_the_names_that_ppos_go_by(base: Path, tmp_path: Path, algorithm: str) -> None:
    sink = RecordingSink()
    train(base, tmp_path / "out", algorithm, sink=sink)
    shared = "reward kl entropy clip_fraction response_length truncated_share grad_norm shaped_reward"
    for name in shared.split():
        assert [step for step, _ in sink.curves[f"{algorithm}/{name}"]] == [1, 2], name
    assert sink.curves[f"{algorithm}/kl"][0][1] == pytest.approx(0.0, abs=1e-5)
    assert sink.curves[f"{algorithm}/kl"][1][1] != pytest.approx(0.0, abs=1e-3)


def test_the_rewards_of_rollouts_are_logged_raw_and_cut_ones_are_trained_with_the_penalty(
    base: Path, tmp_path: Path
) -> None:
    sink = RecordingSink()
    train(base, tmp_path / "out", "rloo", updates=1, sink=sink, reward=lambda p, c: [2.0] * len(p),
          missing_eos_penalty=1.5, generation={"max_new_tokens": 2})  # fmt: skip
    values = {name: points[0][1] for name, points in sink.curves.items()}
    assert values["rloo/reward"] == 2.0
    assert values["rloo/shaped_reward"] == pytest.approx(2.0 - 1.5 * values["rloo/truncated_share"])
    assert values["rloo/truncated_share"] > 0.5


def test_a_group_answers_one_prompt_and_differs_in_its_answers(base: Path, tmp_path: Path) -> None:
    batches: list[tuple[list[Prompt], list[str]]] = []

    def watched(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        batches.append((list(prompts), list(completions)))
        return [0.0] * len(prompts)

    train(base, tmp_path / "out", "grpo", reward=watched)
    assert len(batches) == 2
    for prompts, completions in batches:
        groups = [prompts[i : i + 4] for i in range(0, 16, 4)]
        assert all(prompt == group[0] for group in groups for prompt in group)
        assert len({str(group[0]) for group in groups}) == 4
        assert len(set(completions)) > 12
    assert batches[0] != batches[1]


def test_micro_batches_change_the_arithmetic_and_not_the_result(base: Path, tmp_path: Path) -> None:
    whole = train(base, tmp_path / "whole", "grpo", dev_prompts=DEV)
    split = train(base, tmp_path / "split", "grpo", dev_prompts=DEV, micro_batch_size=4)
    assert whole.evaluations[-1].kl == pytest.approx(split.evaluations[-1].kl, rel=0.05)


def test_a_reward_that_is_not_finite_names_the_sample(base: Path, tmp_path: Path) -> None:
    def broken(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return [0.0, float("nan"), *[0.0] * (len(prompts) - 2)]

    with pytest.raises(TrainingError, match="nan for sample 1"):
        train(base, tmp_path / "out", "rloo", reward=broken)


def test_prompts_beyond_the_limit_are_left_out(base: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no prompt to train on"):
        train(base, tmp_path / "out", "rloo", max_prompt_tokens=2)
    with pytest.raises(DataError, match="more than the model's 128 positions"):
        train(base, tmp_path / "out", "rloo", generation={"max_new_tokens": 128})
