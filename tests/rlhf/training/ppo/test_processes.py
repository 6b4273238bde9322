"""Two real processes over gloo against one: the same statistics, gradients, weights and decisions."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rlhf.errors import ConfigError
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.ppo.trainer import PPOTrainer
from rlhf.training.processes import OneProcess, joined_processes, own_rows
from tests.rlhf.training.ppo.two_processes import Outcome, farthest, outcomes

SCRIPT = Path(__file__).with_name("shared_update.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def ranks(policy_path: Path, reward_path: Path, folder: Path) -> list[Outcome]:
    """What each of two processes found."""
    return outcomes(SCRIPT, folder, policy_path, reward_path)


@pytest.fixture(scope="module")
def alone(policy_path: Path, reward_path: Path, folder: Path) -> Outcome:
    """What one process finds."""
    script = runpy.run_path(str(SCRIPT))
    found = script["fixed_update"](policy_path, reward_path, None)
    found |= script["two_updates"](policy_path, reward_path, folder / "alone", None)
    adapted = script["two_updates"](
        policy_path, reward_path, folder / "adapted alone", None, settings=script["ADAPTED"]
    )
    return found | {f"adapted {name}": tensor for name, tensor in adapted.items()}


@pytest.mark.parametrize("part", ["experience", "gradient", "first step", "update"])
def test_on_fixed_rollouts_an_update_on_two_processes_equals_the_one_process_update(
    ranks: list[Outcome], alone: Outcome, part: str
) -> None:
    assert ranks[0].keys() == alone.keys()
    assert farthest(ranks[0], alone, part) <= 1e-5


def test_the_advantages_are_whitened_over_the_rollouts_of_both_processes(ranks: list[Outcome]) -> None:
    for found in ranks:
        real = found["experience/advantages"][found["experience/mask"].bool()]
        assert float(real.mean()) == pytest.approx(0.0, abs=1e-6)
        assert float(real.std(unbiased=False)) == pytest.approx(1.0, abs=1e-5)


def test_a_run_ends_with_the_same_bits_on_both_processes(ranks: list[Outcome]) -> None:
    assert [n for n in ranks[0] if not torch.equal(ranks[0][n], ranks[1][n])] == []


def test_a_run_on_two_processes_ends_where_one_process_does(ranks: list[Outcome], alone: Outcome) -> None:
    assert farthest(ranks[0], alone, ("weights", "adapted weights")) <= 1e-4
    for name in ("run/ppo/reward", "run/ppo/kl_coefficient", "run/ppo_eval/criterion", "run/ppo/entropy"):
        assert float(ranks[0][name]) == pytest.approx(float(alone[name]), rel=1e-4), name


def test_a_run_of_two_processes_can_be_resumed_on_one(
    ranks: list[Outcome], policy_path: Path, reward_path: Path, folder: Path
) -> None:
    two_updates = runpy.run_path(str(SCRIPT))["two_updates"]
    resumed = two_updates(policy_path, reward_path, folder / "run", None, resume=True)
    for name, value in resumed.items():
        assert torch.equal(value, ranks[0][name]), name


def test_only_process_0_writes_checkpoints_and_the_policy(ranks: list[Outcome], folder: Path) -> None:
    assert sorted(p.name for p in (folder / "run").iterdir()) == ["checkpoints", "policy"]
    assert list((folder / "run/checkpoints").glob(".*")) == []


@pytest.mark.usefixtures("ranks")
def test_a_loss_that_is_not_finite_in_one_process_stops_both_with_the_whole_mini_batch_kept(
    folder: Path,
) -> None:
    errors = [(folder / f"rank{rank}.error").read_text() for rank in (0, 1)]
    assert errors[0] == errors[1]
    assert "policy loss is not finite in update 1" in errors[0]
    kept = json.loads((folder / "spoiled/failed_batch/rollouts.json").read_text())
    assert len(kept["rollouts"]) in (4, 5)


class _OneOfThree(OneProcess):
    rank = 1
    count = 3


def test_the_shares_of_all_processes_are_the_whole() -> None:
    assert list(own_rows(7, _OneOfThree())) == [1, 4]
    assert list(own_rows(1, _OneOfThree())) == []


def test_more_processes_than_a_mini_batch_has_completions_are_refused(
    policy_path: Path, make_settings: Callable[..., PPOSettings], tmp_path: Path
) -> None:
    settings = make_settings(rollout_batch_size=5, mini_batches=2)
    with pytest.raises(ConfigError, match="3 processes are too many"):
        PPOTrainer(
            policy_path, lambda p, c: [0.0] * len(p), ["a"], settings, output_dir=tmp_path, sink=None,
            processes=_OneOfThree(),
        )  # type: ignore[arg-type]  # fmt: skip


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_a_launcher_that_asks_for_sharded_weights_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(variable, "true")
    remedy = r"does not run under .* set the stage's sharding: fsdp"
    with pytest.raises(ConfigError, match=remedy), joined_processes():
        pass


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined_processes() as processes:
        assert (processes.rank, processes.count) == (0, 1)
        assert not torch.distributed.is_initialized()
