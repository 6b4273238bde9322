"""`rlhf export` of what a run registered."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM
from zenml.models import PipelineRunResponse

from ops.export_cli import export
from ops.registries import champion_directory, policy_registry
from rlhf.errors import ModelError
from rlhf.models.loading import load_policy
from rlhf.registry.store import CHAMPION

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def champion(first_run: PipelineRunResponse) -> tuple[str, Path]:
    """Version and directory of the champion that the first run made."""
    entry = policy_registry().by_alias(CHAMPION)
    assert entry is not None
    path = champion_directory(entry.as_champion())
    assert path is not None
    return entry.version, path


def test_the_champion_is_exported_with_its_card_and_its_logits(
    champion: tuple[str, Path], tmp_path: Path
) -> None:
    version, path = champion
    ids = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        expected = load_policy(path)(ids).logits
    for number, source in enumerate([f"policy@{CHAMPION}", f"policy/{version}", str(path)]):
        out = tmp_path / str(number)
        done = CliRunner().invoke(export, [source, str(out)], catch_exceptions=False)
        assert done.exit_code == 0
        assert str(out) in done.output
        with torch.no_grad():
            assert torch.equal(AutoModelForCausalLM.from_pretrained(out).eval()(ids).logits, expected)
    card = (tmp_path / "0" / "README.md").read_text()
    assert card == (tmp_path / "1" / "README.md").read_text()
    assert "## Decision" in card


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("policy/99", "The registry has no policy/99"),
        ("policy@best", "no alias 'best'"),
        ("model@champion", "no exportable model 'model'"),
        ("./nowhere", "no model directory"),
    ],
)
def test_what_is_not_registered_is_refused(
    champion: tuple[str, Path], tmp_path: Path, source: str, expected: str
) -> None:
    done = CliRunner().invoke(export, [source, str(tmp_path / "out")])
    assert isinstance(done.exception, ModelError)
    assert expected in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_files_of_another_content_than_was_registered_are_refused(
    champion: tuple[str, Path], first_run: PipelineRunResponse
) -> None:
    entry = policy_registry().by_version(champion[0])
    assert entry is not None
    other = f"{first_run.steps['train_sft'].outputs['sft_policy'][0].uri}/model"
    with pytest.raises(ModelError, match="registered with other content"):
        champion_directory(replace(entry, path=other).as_champion())


def test_a_taken_directory_is_refused_before_the_registry_is_asked(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    done = CliRunner().invoke(export, ["policy/99", str(tmp_path)])
    assert "is not empty" in str(done.exception)
