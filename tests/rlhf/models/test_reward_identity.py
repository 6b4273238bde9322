"""What names a reward: everything that its scores follow from, and nothing else."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from rlhf.models.reward_classifiers import RewardModelReward
from rlhf.models.reward_content import is_lasting, named_content
from rlhf.models.reward_identity import reward_identity
from rlhf.models.rewards import build_reward
from rlhf.models.settings_rewards import RewardSettings

HTTP = {"type": "http", "url": "https://scores.example/a"}
RULES = {"type": "rules", "rules": [{"type": "length", "maximum": 5}]}


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Writes (anew) the module that ``mine:score`` is in, with a helper in a file of its own."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(body: str) -> None:
        for name in ("mine", "mine.scores", "mine.helper"):
            sys.modules.pop(name, None)
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / "__init__.py").touch()
        (tmp_path / "mine" / "helper.py").write_text(f"def value():\n    {body}\n")
        (tmp_path / "mine" / "scores.py").write_text(
            "from mine.helper import value\n\n\ndef score(prompts, completions):\n"
            "    return [value()] * len(prompts)\n"
        )

    yield write  # type: ignore[misc]
    for name in ("mine", "mine.scores", "mine.helper"):
        sys.modules.pop(name, None)


def _identity(settings: dict[str, Any]) -> str:
    return reward_identity(build_reward(TypeAdapter(RewardSettings).validate_python(settings)))


def test_another_model_or_cut_is_another_reward_and_another_place_is_not(
    save_reward_model: Callable[..., Any], tmp_path: Path, tokenizer: Any
) -> None:
    model = save_reward_model(tmp_path / "one", tokenizer)
    model.save_pretrained(tmp_path / "moved")
    tokenizer.save_pretrained(tmp_path / "moved")
    one = reward_identity(RewardModelReward(tmp_path / "one"))
    assert reward_identity(RewardModelReward(tmp_path / "moved", token_budget=7)) == one
    assert reward_identity(RewardModelReward(tmp_path / "one", max_length=9)) != one
    model.score.weight.data += 1
    model.save_pretrained(tmp_path / "moved")
    assert reward_identity(RewardModelReward(tmp_path / "moved")) != one


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        (HTTP, {"url": "https://scores.example/b"}),
        (HTTP, {"protocol": "openrlhf"}),
        (RULES, {"rules": [{"type": "length", "maximum": 6}]}),
        ({"type": "mix", "rewards": [RULES], "weights": [1.0]}, {"weights": [2.0]}),
        ({"type": "mix", "rewards": [RULES], "weights": [1.0]}, {"rewards": [HTTP]}),
        ({"type": "ensemble", "rewards": [RULES, RULES]}, {"k": 2.0}),
    ],
)
def test_what_changes_scores_changes_the_identity(settings: dict[str, Any], changes: dict[str, Any]) -> None:
    assert _identity(settings) == _identity(settings)
    assert _identity(settings) != _identity({**settings, **changes})


def test_patience_with_a_server_is_not_part_of_its_identity() -> None:
    patient = {"timeout": 5, "retries": 9, "longest_outage": 3600, "concurrency": 1, "batch_size": 8}
    assert _identity(HTTP) == _identity({**HTTP, **patient})


def test_a_function_is_named_with_its_code_and_that_of_its_helpers(own_module: Callable[[str], None]) -> None:
    settings = {"type": "function", "function": "mine.scores:score"}
    own_module("return 1.0")
    identity, content = _identity(settings), named_content(settings)
    own_module("return 1.0  # a remark")
    assert (_identity(settings), named_content(settings)) == (identity, content)
    own_module("return 2.0")
    assert _identity(settings) != identity
    assert named_content(settings) != content


def test_an_object_may_name_itself() -> None:
    def score(prompts: Any, completions: Any) -> list[float]:
        return [0.0] * len(prompts)

    by_code = reward_identity(score)
    assert "test_reward_identity" in by_code
    score.identity = "version 3"  # type: ignore[attr-defined]
    assert reward_identity(score) == "version 3"


def test_a_pipeline_sees_the_content_of_every_model_in_the_tree(reward_directory: Path) -> None:
    model = {"type": "reward_model", "path": str(reward_directory)}
    tree = {"type": "mix", "rewards": [model], "weights": [1.0]}
    before = named_content(tree)
    assert str(reward_directory) not in json.dumps(before)
    (reward_directory / "config.json").write_text((reward_directory / "config.json").read_text() + "\n")
    assert named_content(tree) != before


def test_servers_and_branches_of_the_hub_may_change_and_directories_and_commits_are_read(
    reward_directory: Path,
) -> None:
    local = {"type": "reward_model", "path": str(reward_directory)}
    hub = {"type": "classifier", "path": "desk/mood", "label": "good"}
    assert is_lasting({"type": "proxy"})
    assert is_lasting({"type": "mix", "rewards": [local, RULES]})
    assert is_lasting({**hub, "revision": "0123456789abcdef" * 2 + "01234567"})
    assert not is_lasting({**hub, "revision": "main"})
    assert not is_lasting({"type": "ensemble", "rewards": [local, {"type": "mix", "rewards": [hub]}]})
    assert not is_lasting({"type": "mix", "rewards": [RULES, HTTP]})
