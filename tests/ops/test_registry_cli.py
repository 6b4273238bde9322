"""`rlhf registry` as a user meets it, on a real MLflow registry."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from mlflow.tracking import MlflowClient

import ops.registry_cli
from ops.model_cards import CARD
from ops.registries import MLflowRegistry
from ops.registry_cli import registry as command
from rlhf.errors import PromotionError
from rlhf.registry.champion import ChampionRef
from rlhf.registry.journal import Journal
from rlhf.registry.promotion import PromotionDecision
from rlhf.registry.store import Candidate
from rlhf.registry.transaction import promote


def _model(folder: Path, epochs: int) -> str:
    model = folder / "model"
    model.mkdir(parents=True)
    (model / "manifest.json").write_text("{}")
    (model / "training.json").write_text(json.dumps({"ppo": {"epochs": epochs, "seed": 0}}))
    (folder / CARD).write_text(f"# policy of {epochs} epochs")
    return str(model)


@pytest.fixture(scope="module")
def registry(mlflow_uri: str, tmp_path_factory: pytest.TempPathFactory) -> MLflowRegistry:
    """Two champions, the second in place."""
    folder = tmp_path_factory.mktemp("registry")
    made = MLflowRegistry(MlflowClient(mlflow_uri, mlflow_uri), prefix="cli-")
    champion = ChampionRef()
    for epochs, digest in ((1, "a"), (2, "b")):
        decision = PromotionDecision(
            verdict="promote", mode="enforce", candidate_digest=digest, champion=champion, reasons=()
        )
        tags = {"zenml.run_name": f"run-{digest}", "data.ledger_sequence": "716"}
        candidate = Candidate(digest, _model(folder / digest, epochs), tags=tags, by="ann")
        champion = promote(made, candidate, decision).champion
    return made


@pytest.fixture
def rlhf(registry: MLflowRegistry, monkeypatch: pytest.MonkeyPatch) -> "type[_Command]":
    monkeypatch.setattr(ops.registry_cli, "_store", lambda: registry)
    return _Command


class _Command:
    """The command line in this process."""

    @staticmethod
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(command, list(arguments))


def test_list_shows_versions_with_aliases_runs_and_data(rlhf: type[_Command]) -> None:
    lines = rlhf.run("list").output.splitlines()
    [champion] = [line for line in lines if "v2" in line]
    assert all(part in champion for part in ("candidate, champion", "promote", "run-b", "716"))
    assert any("previous" in line and "v1" in line for line in lines)


def test_show_prints_the_whole_card_of_the_champion_or_of_a_version(rlhf: type[_Command]) -> None:
    assert rlhf.run("show").output.startswith("# policy of 2 epochs")
    shown = rlhf.run("show", "previous").output
    assert shown.startswith("# policy of 1 epochs")
    assert "promotion.decision" in shown
    assert "rlhf.history" not in shown


def test_diff_names_what_differs_and_nothing_else(rlhf: type[_Command]) -> None:
    output = rlhf.run("diff", "1", "champion").output
    assert [line for line in output.splitlines() if "ppo.epochs" in line]
    assert "ppo.seed" not in output
    assert "ledger_sequence" not in output
    assert "run-a" in output
    assert "do not differ" in rlhf.run("diff", "2", "champion").output


def test_rollback_and_promote_move_the_champion_and_history_says_who_and_why(rlhf: type[_Command]) -> None:
    done = rlhf.run("rollback", "--by", "eve", "--reason", "too long answers")
    assert "Version 1 is the champion, in place of version 2." in done.output
    assert rlhf.run("promote", "2").exit_code == 2  # a person's choice needs a reason
    assert rlhf.run("promote", "2", "--by", "bob", "--reason", "false alarm").exit_code == 0
    output = rlhf.run("history").output
    first, second = (output.index(part) for part in ("false alarm", "too long answers"))
    assert first < second
    assert "v2 → v1" in output
    assert "run-b" in output


def test_a_refusal_is_one_sentence(rlhf: type[_Command]) -> None:
    refused = rlhf.run("rollback", "--to", "9")
    assert isinstance(refused.exception, PromotionError)  # which `rlhf` prints without a trace
    assert "no policy '9'" in str(refused.exception)


def test_an_open_move_is_told_and_repair_ends_it(rlhf: type[_Command], registry: MLflowRegistry) -> None:
    assert "No move was interrupted" in rlhf.run("repair").output
    assert registry.begin(Journal(action="promotion", by="ann", why="w", place="elsewhere"))
    assert "A promotion by ann on elsewhere is open" in rlhf.run("list").output
    assert "repair --force" in str(rlhf.run("repair").exception)
    assert "was undone" in rlhf.run("repair", "--force").output


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("ops.cli, ops.registries, ops.model_cards, ops.prune", "torch transformers trl"),
        ("ops.cli, ops.registries, rlhf.registry.transaction", "zenml"),
        ("ops.cli, ops.model_control_plane", "mlflow"),
    ],
)
def test_the_registry_commands_load_nothing_that_they_do_not_need(modules: str, absent: str) -> None:
    code = f"import sys, {modules}; sys.exit(' '.join(set({absent.split()}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stderr.strip() == ""
