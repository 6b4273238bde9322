"""Checkpoints in a remote artifact store: another machine finds the newest complete one."""

import shutil
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import torch
from zenml.artifact_stores.base_artifact_store import BaseArtifactStore
from zenml.client import Client

import ops.checkpoint_mirror as checkpoint_mirror
from ops.checkpoint_mirror import FINISHED, CheckpointMirror, mirrored, remove_finished
from rlhf.training.ppo.checkpoint import Checkpoint, load_newest, save_checkpoint


def _write(folder: Path, update: int) -> None:
    best = folder / f"best-{update:08d}"
    best.mkdir(parents=True)
    (best / "model").write_text(str(update))
    save_checkpoint(folder, Checkpoint(update, {"weights": {"w": torch.ones(2) * update}}, {}), {}, keep=1)
    for old in folder.glob("best-*"):
        if old != best:
            (old / "model").unlink()
            old.rmdir()


@pytest.fixture
def url() -> str:
    """A folder of the store, known by its URL alone."""
    return f"{Client().active_stack.artifact_store.path}/checkpoints/a-step"


def test_another_machine_goes_on_from_the_newest_checkpoint(url: str, tmp_path: Path) -> None:
    here = CheckpointMirror(tmp_path / "here", url)
    for update in (1, 2):
        _write(tmp_path / "here" / "ppo", update)
        here.push()
    there = tmp_path / "there"
    CheckpointMirror(there, url).fetch()
    found = load_newest(there / "ppo", {})
    assert found is not None
    assert found.update == 2
    assert sorted(path.name for path in (there / "ppo").iterdir()) == ["best-00000002", "update-00000002"]
    assert not (Path(url) / "ppo" / "update-00000001" / "manifest.json").exists()


def test_an_upload_that_broke_off_leaves_the_checkpoint_before_it(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"{url}-2"
    here = CheckpointMirror(tmp_path / "here", url)
    _write(tmp_path / "here", 1)
    here.push()
    _write(tmp_path / "here", 2)
    put = checkpoint_mirror.put_file

    def failing(source: Path, target: str) -> None:
        if source.name == "state.json":
            raise OSError(5, "away")
        put(source, target)

    monkeypatch.setattr(checkpoint_mirror, "put_file", failing)
    here.push()
    assert "could not be uploaded" in caplog.text
    there = CheckpointMirror(tmp_path / "there", url)
    there.fetch()
    found = load_newest(tmp_path / "there", {})
    assert found is not None
    assert found.update == 1


def test_a_machine_that_has_newer_checkpoints_keeps_them(url: str, tmp_path: Path) -> None:
    url = f"{url}-3"
    for name, update in (("here", 1), ("there", 5)):
        _write(tmp_path / name, update)
    CheckpointMirror(tmp_path / "here", url).push()
    CheckpointMirror(tmp_path / "there", url).fetch()
    found = load_newest(tmp_path / "there", {})
    assert found is not None
    assert found.update == 5


def test_checkpoints_are_uploaded_when_training_is_stopped_and_marked_when_it_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_mirror, "is_local", lambda store: False)
    store: BaseArtifactStore = Client().active_stack.artifact_store
    folder = tmp_path / "stopped-step"
    stored = Path(store.path) / "checkpoints" / "stopped-step"

    def stopped() -> None:
        with mirrored(store, folder, step="s"):
            _write(folder, 3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert (stored / "update-00000003" / "manifest.json").exists()
    assert not (stored / FINISHED).exists()
    with mirrored(store, folder, step="s"):
        pass
    assert (stored / FINISHED).read_text() == "s"


def test_steps_that_begin_at_once_do_not_fail_over_what_another_has_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Client().active_stack.artifact_store
    folder = Path(store.path) / "checkpoints" / "raced"
    folder.mkdir(parents=True)
    (folder / FINISHED).write_text(str(uuid4()))

    def another_is_quicker(step: UUID) -> None:
        shutil.rmtree(folder)
        raise KeyError(step)

    monkeypatch.setattr(checkpoint_mirror.Client(), "get_run_step", another_is_quicker)
    remove_finished(store)
    assert not folder.exists()


def test_a_marker_that_was_written_by_halves_keeps_its_checkpoints_and_fails_no_run() -> None:
    store = Client().active_stack.artifact_store
    folder = Path(store.path) / "checkpoints" / "halved"
    folder.mkdir(parents=True)
    (folder / FINISHED).write_text(str(uuid4())[:7])
    remove_finished(store)
    assert (folder / FINISHED).exists()
