"""Moves directories between local disk and the artifact store, never copying what can be renamed or
mapped."""

import errno
import shutil
import tempfile
from pathlib import Path

from zenml.artifact_stores import LocalArtifactStore
from zenml.artifact_stores.base_artifact_store import BaseArtifactStore
from zenml.io import fileio

from rlhf.retries import retried

_PATIENCE_SECONDS = 120.0
_PASSING = {None, errno.EIO, errno.EAGAIN, errno.EBUSY, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ESTALE}


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
        put_file(file, destination)
    shutil.rmtree(source)


def put_file(source: Path, target: str) -> None:
    """Copy a file into the store."""
    fileio.makedirs(target.rsplit("/", 1)[0])
    _copy(str(source), target)


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
    try:
        _download(source, partial, last=last)
    except BaseException:
        shutil.rmtree(partial)
        raise
    try:
        partial.rename(cache)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        if not (cache / last).exists():
            raise
        # Another process was first, with the same content.
    return cache


def _download(source: str, target: Path, *, last: str) -> None:
    _copy(f"{source}/{last}", str(target / last))  # first here, since without it nothing else is of use
    for folder, _, names in fileio.walk(source):
        folder = folder.decode() if isinstance(folder, bytes) else str(folder)
        for name in names:
            name = name.decode() if isinstance(name, bytes) else str(name)
            relative = f"{folder}/{name}"[len(source) :].lstrip("/")
            if relative == last:
                continue
            (target / relative).parent.mkdir(parents=True, exist_ok=True)
            _copy(f"{folder}/{name}", str(target / relative))


def _copy(source: str, target: str) -> None:
    retried(
        lambda: fileio.copy(source, target, overwrite=True),
        passes=_store_may_return,
        doing=f"Copying {source}",
        patience=_PATIENCE_SECONDS,
    )


def _store_may_return(error: Exception) -> bool:
    """Whether an artifact store failed for a reason that passes by itself. Client libraries of object stores
    have classes of their own for lost connections, and raise Python's without a number."""
    if isinstance(error, FileNotFoundError | PermissionError):
        return False
    if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError):
        return error.errno in _PASSING
    return isinstance(error, OSError) or any(word in type(error).__name__ for word in ("Connect", "Timeout"))
