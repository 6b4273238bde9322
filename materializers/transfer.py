"""Moves directories between local disk and the artifact store, never copying what can be renamed or
mapped."""

import shutil
import tempfile
from pathlib import Path

from zenml.artifact_stores import LocalArtifactStore
from zenml.artifact_stores.base_artifact_store import BaseArtifactStore
from zenml.io import fileio


def is_local(store: BaseArtifactStore) -> bool:
    """Whether the store's files can be opened as ordinary paths."""
    return isinstance(store, LocalArtifactStore)


def put_directory(store: BaseArtifactStore, source: Path, target: str, *, last: str) -> None:
    """Move ``source`` into the store.

    A rename where both are on one file system; otherwise an upload whose file named ``last`` comes last, so
    that a directory with it is complete.
    """
    if is_local(store):
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(source, target)
        return
    files = sorted(p for p in source.rglob("*") if p.is_file())
    for file in sorted(files, key=lambda p: p.name == last):
        destination = f"{target}/{file.relative_to(source).as_posix()}"
        fileio.makedirs(destination.rsplit("/", 1)[0])
        fileio.copy(str(file), destination, overwrite=True)
    shutil.rmtree(source)


def fetch_directory(store: BaseArtifactStore, source: str, cache: Path, *, last: str) -> Path:
    """A local path with the store's directory: the directory itself on a local store, otherwise ``cache``.

    ``cache`` is filled under a temporary name and renamed, and is valid only with the file named ``last``.
    """
    if is_local(store):
        return Path(source)
    if (cache / last).exists():
        return cache
    cache.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=cache.parent, prefix=f"{cache.name}."))
    for folder, _, names in fileio.walk(source):
        folder = folder.decode() if isinstance(folder, bytes) else str(folder)
        for name in names:
            name = name.decode() if isinstance(name, bytes) else str(name)
            relative = f"{folder}/{name}"[len(source) :].lstrip("/")
            if relative == last:
                continue
            (partial / relative).parent.mkdir(parents=True, exist_ok=True)
            fileio.copy(f"{folder}/{name}", str(partial / relative), overwrite=True)
    fileio.copy(f"{source}/{last}", str(partial / last), overwrite=True)
    try:
        partial.rename(cache)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        if not (cache / last).exists():
            raise
        # Another process was first, with the same content.
    return cache
