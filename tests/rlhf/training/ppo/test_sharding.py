"""Two real processes over gloo that share the networks against one that holds them whole."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from rlhf.errors import ConfigError
from rlhf.models.loading import load_policy
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.ppo.sharding import equal_turns
from rlhf.training.ppo.trainer import PPOTrainer
from rlhf.training.processes import OneProcess
from tests.rlhf.training.ppo.two_processes import Outcome, distance, farthest, outcomes

SCRIPT = Path(__file__).with_name("sharded_update.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharding")


@pytest.fixture(scope="module")
def tied_path(policy_path: Path, folder: Path) -> Path:
    """A policy whose head is its embedding."""
    config = LlamaConfig.from_pretrained(policy_path)
    config.tie_word_embeddings = True
    torch.manual_seed(3)
    LlamaForCausalLM(config).save_pretrained(folder / "tied")
    AutoTokenizer.from_pretrained(policy_path).save_pretrained(folder / "tied")
    return folder / "tied"


@pytest.fixture(scope="module")
def ranks(policy_path: Path, reward_path: Path, tied_path: Path, folder: Path) -> list[Outcome]:
    """What each of two processes found."""
    return outcomes(SCRIPT, folder, policy_path, reward_path, tied_path)


@pytest.fixture(scope="module")
def alone(policy_path: Path, reward_path: Path, tied_path: Path, folder: Path) -> Outcome:
    """What one process finds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        from sharded_update import updates
    return updates(policy_path, reward_path, tied_path, folder / "alone", None, "none")


@pytest.mark.parametrize("critic", ["", "shared "], ids=["separate critic", "shared critic and tied head"])
@pytest.mark.parametrize("part", ["experience", "gradient", "first step", "update"])
def test_on_fixed_rollouts_an_update_of_shared_networks_equals_the_one_process_update(
    ranks: list[Outcome], alone: Outcome, critic: str, part: str
) -> None:
    assert farthest(ranks[0], alone, critic + part) <= 1e-5


@pytest.mark.parametrize("critic", ["", "shared "], ids=["separate critic", "shared critic and tied head"])
def test_a_run_of_shared_networks_ends_where_one_process_does(
    ranks: list[Outcome], alone: Outcome, critic: str
) -> None:
    assert farthest(ranks[0], alone, f"{critic}weights") <= 1e-4
    for figure in ("ppo/reward", "ppo/kl_coefficient", "ppo/entropy", "ppo_eval/criterion"):
        name = f"{critic}run/{figure}"
        assert float(ranks[0][name]) == pytest.approx(float(alone[name]), rel=1e-4), name


def test_each_process_holds_its_share_of_all_weights_and_no_more(ranks: list[Outcome]) -> None:
    shares = [float(found["held share"]) for found in ranks]
    assert sum(shares) == pytest.approx(1.0)
    assert shares == pytest.approx([0.5, 0.5], abs=0.01)


def test_a_resumed_run_of_shared_networks_ends_with_the_bits_of_the_straight_one(
    ranks: list[Outcome],
) -> None:
    names = [name for name in ranks[0] if name.startswith(("weights", "run"))]
    assert [n for n in names if not torch.equal(ranks[0][f"resumed {n}"], ranks[0][n])] == []


def test_in_bfloat16_an_update_of_shared_networks_equals_one_with_whole_networks_on_each_process(
    ranks: list[Outcome],
) -> None:
    names = [name.removeprefix("fsdp ") for name in ranks[0] if name.startswith("fsdp bf16 ")]
    assert names
    for name in names:
        assert distance(ranks[0][f"fsdp {name}"], ranks[0][f"none {name}"]) <= 1e-5, name


@pytest.mark.parametrize("run", ["run", "run-shared"])
@pytest.mark.usefixtures("ranks", "alone")
def test_the_policy_that_shared_networks_deliver_is_the_one_process_policy(folder: Path, run: str) -> None:
    delivered = load_policy(folder / run / "policy", key="policy").state_dict()
    expected = load_policy(folder / run.replace("run", "alone") / "policy", key="policy").state_dict()
    assert delivered.keys() == expected.keys()
    for name, weight in delivered.items():
        assert distance(weight, expected[name]) <= 1e-4, name


def test_a_checkpoint_of_shared_networks_goes_on_in_one_process_that_holds_them_whole(
    ranks: list[Outcome], policy_path: Path, reward_path: Path, folder: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        from sharded_update import settings, two_updates
    resumed = two_updates(
        policy_path, reward_path, folder / "run", None, settings=settings("none"), resume=True
    )
    for name, value in resumed.items():
        assert torch.equal(value, ranks[0][name]), name


@pytest.mark.usefixtures("ranks")
def test_a_loss_that_is_not_finite_in_one_process_stops_both(folder: Path) -> None:
    errors = [(folder / f"rank{rank}.error").read_text() for rank in (0, 1)]
    assert errors[0] == errors[1]
    assert "policy loss is not finite in update 1" in errors[0]


def test_a_process_with_fewer_batches_repeats_a_row_and_one_without_any_takes_anothers() -> None:
    shares: list[list[list[int]]] = [[[4, 5], [6]], [[7, 8]], []]
    assert equal_turns(shares, 0) == [([4, 5], True), ([6], True)]
    assert equal_turns(shares, 1) == [([7, 8], True), ([7], False)]
    assert equal_turns(shares, 2) == [([4], False), ([4], False)]


def test_one_process_has_nobody_to_share_weights_with(
    policy_path: Path, make_settings: Callable[..., PPOSettings], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"ppo\.sharding: fsdp .* this is one; raise ppo\.processes"):
        PPOTrainer(
            policy_path, lambda p, c: [0.0] * len(p), ["a"], make_settings(sharding="fsdp"),
            output_dir=tmp_path, sink=None, processes=OneProcess(),
        )  # type: ignore[arg-type]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"lora": {"rank": 2}}, "lora"),
        ({"optimizer": "adamw_8bit"}, "adamw_8bit"),
        ({"rollout_engine": "vllm"}, "vllm"),
    ],
)
def test_what_does_not_go_with_shared_networks_is_refused(
    make_settings: Callable[..., PPOSettings], changes: dict[str, object], named: str
) -> None:
    with pytest.raises(ValidationError, match=f"sharding: fsdp does not go with .*{named}"):
        make_settings(sharding="fsdp", **changes)
