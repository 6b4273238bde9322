"""Directories between local disk and the artifact store: moved where they can be, complete where they are."""

from pathlib import Path

import pytest
from zenml.artifact_stores import LocalArtifactStore
from zenml.client import Client
from zenml.io import fileio

import materializers.transfer as transfer
from materializers.transfer import fetch_directory, put_directory


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> LocalArtifactStore:
    store = Client().active_stack.artifact_store
    assert isinstance(store, LocalArtifactStore)
    return store


@pytest.fixture
def remote(store: LocalArtifactStore, monkeypatch: pytest.MonkeyPatch) -> LocalArtifactStore:
    """A store that is treated as one whose files cannot be opened as paths."""
    monkeypatch.setattr(transfer, "is_local", lambda _: False)
    return store


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "components").mkdir(parents=True)
    (folder / "a-manifest.json").write_text("{}")
    (folder / "weights").write_bytes(b"w" * 1000)
    (folder / "components" / "tokenizer").write_text("t")
    return folder


def test_on_a_local_store_a_directory_is_moved_and_opened_in_place(
    store: LocalArtifactStore, model: Path, tmp_path: Path
) -> None:
    inode = (model / "weights").stat().st_ino
    target = tmp_path / "store" / "model"
    put_directory(store, model, str(target), last="a-manifest.json")
    opened = fetch_directory(store, str(target), tmp_path / "cache", last="a-manifest.json")
    assert opened == target
    assert (opened / "weights").stat().st_ino == inode
    assert not model.exists()
    assert not (tmp_path / "cache").exists()


def test_an_upload_ends_with_the_manifest(
    remote: LocalArtifactStore, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []
    copy = fileio.copy

    def recording(source: str, target: str, overwrite: bool = False) -> None:
        copied.append(Path(source).name)
        copy(source, target, overwrite=overwrite)

    monkeypatch.setattr(fileio, "copy", recording)
    put_directory(remote, model, str(tmp_path / "remote"), last="a-manifest.json")
    assert sorted(copied) == ["a-manifest.json", "tokenizer", "weights"]
    assert copied[-1] == "a-manifest.json"


def test_a_download_is_kept_by_content_and_an_interrupted_one_is_begun_anew(
    remote: LocalArtifactStore, model: Path, tmp_path: Path
) -> None:
    source, cache = str(tmp_path / "remote"), tmp_path / "cache" / "digest"
    put_directory(remote, model, source, last="a-manifest.json")
    cache.with_name("digest.interrupted").mkdir(parents=True)
    (cache.with_name("digest.interrupted") / "weights").write_text("half of them")
    folder = fetch_directory(remote, source, cache, last="a-manifest.json")
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    assert names == ["a-manifest.json", "components/tokenizer", "weights"]
    (folder / "weights").write_bytes(b"kept")
    again = fetch_directory(remote, source, cache, last="a-manifest.json")
    assert (again / "weights").read_bytes() == b"kept"


def test_a_file_that_is_not_there_is_not_waited_for(remote: LocalArtifactStore, tmp_path: Path) -> None:
    """Clients of object stores give the error no number, as lost connections have none."""
    assert not transfer._store_may_return(FileNotFoundError("s3://bucket/absent"))
    assert transfer._store_may_return(OSError("connection lost"))
    with pytest.raises(FileNotFoundError):
        fetch_directory(remote, str(tmp_path / "absent"), tmp_path / "cache" / "digest", last="manifest")
    assert list((tmp_path / "cache").iterdir()) == []
