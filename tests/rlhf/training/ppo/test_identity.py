"""What names the code: every module that PPO reaches, and nothing of its layout."""

from pathlib import Path

import pytest

from rlhf import source_code as module
from rlhf.training.ppo import trainer
from rlhf.training.ppo.identity import code_identity


def _digest(monkeypatch: pytest.MonkeyPatch, changed: str, source: bytes) -> str:
    """The digest if one module had another source."""
    original = module.source
    with monkeypatch.context() as patch:
        patch.setattr(module, "source", lambda name: source if name == changed else original(name))
        return code_identity.__wrapped__()["code"]


@pytest.mark.parametrize(
    "name",
    [
        "rlhf.training.ppo.trainer",
        "rlhf.training.ppo.losses",
        "rlhf.training.ppo.advantages",
        "rlhf.models.generation",
        "rlhf.models.causal_attention",
    ],
)
def test_a_change_in_any_module_of_the_algorithm_is_other_code(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source = module.source(name)
    assert _digest(monkeypatch, name, source) == code_identity()["code"]
    assert _digest(monkeypatch, name, source + b"\nx = 1\n") != code_identity()["code"]


def test_comments_and_other_stages_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "rlhf.training.ppo.losses"
    remarked = b"# a remark\n\n\n" + module.source(name)
    assert _digest(monkeypatch, name, remarked) == code_identity()["code"]
    assert _digest(monkeypatch, "rlhf.feedback.ingest", b"x = 1") == code_identity()["code"]


def test_the_libraries_that_compute_are_named_with_their_versions() -> None:
    assert {"torch version", "transformers version", "peft version", "numpy version"} < code_identity().keys()


def test_every_file_of_the_trainer_counts() -> None:
    package = Path(trainer.__file__).parent
    starts_it = {"__init__", "launch", "worker"}
    names = {f"rlhf.training.ppo.{file.stem}" for file in package.glob("*.py") if file.stem not in starts_it}
    assert names <= module.reached_modules("rlhf.training.ppo.trainer")
