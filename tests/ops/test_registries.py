"""The transaction on real registries: MLflow and ZenML on sqlite agree, whoever dies or races."""

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from zenml.client import Client

from ops import environment
from ops.registries import OPEN_MOVE, MLflowRegistry
from rlhf.registry.champion import ChampionRef
from rlhf.registry.journal import Journal
from rlhf.registry.promotion import PromotionDecision
from rlhf.registry.store import Candidate
from rlhf.registry.transaction import history, promote, repair, rollback, settled_champion

WORKER = Path(__file__).parent / "registry_worker.py"


@pytest.fixture
def registry(mlflow_uri: str, request: pytest.FixtureRequest) -> MLflowRegistry:
    """A registry of its own on the session's ZenML: the names of others are left alone."""
    number = zlib.crc32(request.node.name.encode())
    return MLflowRegistry(MlflowClient(mlflow_uri, mlflow_uri), prefix=f"test-{number}-")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    return folder


def crown(registry: MLflowRegistry, digest: str, path: Path, *, wins: bool = True) -> None:
    current = registry.champion()
    decision = PromotionDecision(
        verdict="promote" if wins else "reject",
        mode="enforce",
        candidate_digest=digest,
        champion=current.as_champion() if current else ChampionRef(),
        reasons=(),
    )
    proxy = Candidate(f"proxy-{digest}", str(path))
    candidate = Candidate(digest, str(path), description="# card", reward_models={"proxy": proxy}, by="ann")
    promote(registry, candidate, decision)


def stages(registry: MLflowRegistry, model: str) -> dict[str, tuple[str, str | None]]:
    """ZenML's versions: name → (digest, stage)."""
    [found] = Client().list_models(name=registry.prefix + model).items
    versions = Client().list_model_versions(model=found.id, hydrate=True, size=100).items
    return {v.name: (str(v.description), v.stage) for v in versions}


def assert_equal(registry: MLflowRegistry) -> None:
    """ZenML says what MLflow says, about policies and reward models."""
    for model in ("policy", "reward-model"):
        name = registry.prefix + model
        aliases = registry.mlflow.get_registered_model(name).aliases
        twins = stages(registry, model)
        versions = registry.mlflow.search_model_versions(f"name = '{name}'")
        assert {f"v{v.version}": v.tags["rlhf.digest"] for v in versions} == {
            twin: digest for twin, (digest, _) in twins.items()
        }
        in_production = [twin for twin, (_, stage) in twins.items() if stage == "production"]
        assert in_production == ([f"v{aliases['champion']}"] if "champion" in aliases else [])
        in_staging = [twin for twin, (_, stage) in twins.items() if stage == "staging"]
        waiting = aliases.get("candidate") not in (aliases.get("champion"), aliases.get("previous"))
        assert in_staging == ([f"v{aliases['candidate']}"] if waiting else [])
        if "previous" in aliases:
            assert twins[f"v{aliases['previous']}"][1] == "archived"


def test_stages_follow_aliases_through_promotion_rejection_and_rollback(
    registry: MLflowRegistry, model: Path
) -> None:
    crown(registry, "a", model)
    assert_equal(registry)
    crown(registry, "b", model)
    crown(registry, "c", model, wins=False)
    assert_equal(registry)
    assert stages(registry, "policy") == {
        "v1": ("a", "archived"),
        "v2": ("b", "production"),
        "v3": ("c", "staging"),
    }
    rollback(registry, by="eve", why="complaints")
    assert_equal(registry)
    assert registry.aliases()["reward-model@champion"] == "1"
    assert [move.by for move in history(registry)] == ["eve", "ann", "ann", "ann"]
    assert repair(registry) is None
    names = {model.name for model in registry.mlflow.search_registered_models()}
    assert registry.prefix + OPEN_MOVE not in names


def test_what_was_changed_in_zenml_by_hand_is_put_right_by_repair(
    registry: MLflowRegistry, model: Path
) -> None:
    crown(registry, "a", model)
    crown(registry, "b", model)
    [found] = Client().list_models(name=f"{registry.prefix}policy").items
    client = Client()
    client.update_model_version(found.id, "v1", stage="production", force=True)
    client.delete_model_version(client.get_model_version(found.id, "v2").id)
    repair(registry)
    assert_equal(registry)


def test_a_version_number_that_returns_after_a_reset_of_mlflow_is_not_taken_for_the_old_one(
    registry: MLflowRegistry, model: Path
) -> None:
    crown(registry, "a", model)
    for name in ("policy", "reward-model"):
        registry.mlflow.delete_registered_model(registry.prefix + name)
    crown(registry, "b" * 64, model)
    assert stages(registry, "policy") == {
        "v1": ("a", "archived"),
        f"v1-{'b' * 12}": ("b" * 64, "production"),
    }


def test_only_one_of_two_machines_opens_a_move(registry: MLflowRegistry) -> None:
    mine, theirs = (Journal(action="promotion", by=who, why="w", place=who) for who in ("me", "them"))
    assert registry.begin(mine)
    assert registry.begin(mine)  # a request that was sent twice
    assert not registry.begin(theirs)
    decided = mine.decided("1", {}, {"policy@champion": "1"})
    registry.record(decided)
    assert registry.journal() == decided
    registry.end()
    registry.end()
    assert registry.journal() is None
    assert registry.begin(theirs)


ROLLED_BACK_BESIDE = """
import sys
from ops.zenml_process import ZenMLProcess
zenml = ZenMLProcess()
from mlflow.tracking import MlflowClient
from ops.registries import MLflowRegistry
from rlhf.registry.transaction import rollback
uri, prefix = sys.argv[1:]
rollback(MLflowRegistry(MlflowClient(uri, uri), prefix=prefix, zenml=zenml), by="eve", why="complaints")
sys.exit("zenml" in sys.modules)
"""


def test_a_command_that_has_zenml_in_a_process_beside_it_leaves_both_registries_equal(
    registry: MLflowRegistry, model: Path
) -> None:
    crown(registry, "a", model)
    crown(registry, "b", model)
    command = [sys.executable, "-c", ROLLED_BACK_BESIDE, registry.mlflow.tracking_uri, registry.prefix]
    done = subprocess.run(
        command, env=_environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    champion = registry.champion()
    assert champion is not None
    assert champion.digest == "a"
    assert_equal(registry)


def _job(registry: MLflowRegistry, digest: str, path: Path, **more: Any) -> list[str]:
    champion = registry.champion()
    job = {
        "uri": registry.mlflow.tracking_uri,
        "prefix": registry.prefix,
        "digest": digest,
        "path": str(path),
        "champion": (champion.as_champion() if champion else ChampionRef()).model_dump(),
        **more,
    }
    return [sys.executable, str(WORKER), json.dumps(job)]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(environment.PROJECT_ROOT)}


@pytest.mark.parametrize(
    ("die", "champion"),
    [
        (("register", "after", "policy"), "a"),
        (("set_alias", "after", "policy@previous"), "b"),
        (("follow", "before", None), "b"),
    ],
)
def test_a_killed_promotion_is_undone_or_finished_by_the_next_run(
    registry: MLflowRegistry, model: Path, die: tuple[str, str, str | None], champion: str
) -> None:
    crown(registry, "a", model)
    killed = subprocess.run(
        _job(registry, "b", model, die=die), env=_environment(), capture_output=True, timeout=120, check=False
    )
    assert killed.returncode == -9, killed.stderr.decode()
    assert registry.journal() is not None
    found = settled_champion(registry)  # what resolve_champion calls
    assert found is not None
    assert found.digest == champion
    assert registry.journal() is None
    assert_equal(registry)
    if champion == "a":
        crown(registry, "b", model)
        assert_equal(registry)


def test_of_two_promotions_at_once_one_wins_and_the_other_is_told_why(
    registry: MLflowRegistry, model: Path
) -> None:
    crown(registry, "a", model)
    started = [
        subprocess.Popen(_job(registry, digest, model), env=_environment(), stderr=subprocess.PIPE, text=True)
        for digest in ("b", "c")
    ]
    said = [process.communicate(timeout=120)[1] for process in started]
    assert sorted(process.returncode for process in started) == [0, 1]
    lost = next(text for text, process in zip(said, started, strict=True) if process.returncode)
    assert "and not version 1 (a), which this promotion rests on; another run moved it" in lost
    assert_equal(registry)
    assert len(history(registry)) == 2
