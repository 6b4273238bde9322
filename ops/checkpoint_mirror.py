"""Checkpoints in the artifact store, so that another machine can go on.

In a local store training writes them where they stay. For a remote one a thread uploads each checkpoint that
is complete, its manifest last, and removes there what training has removed here.
"""

import json
import logging
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

from zenml.artifact_stores.base_artifact_store import BaseArtifactStore
from zenml.client import Client
from zenml.io import fileio

from materializers.transfer import is_local, put_file
from ops import environment
from rlhf.models.directory import MANIFEST

logger = logging.getLogger(__name__)

FOLDER = "checkpoints"
FINISHED = "finished"
"""File that names the step run whose training ended well."""
_SECONDS = 2.0
_INDEX = "index.json"


def checkpoint_folder(store: BaseArtifactStore) -> Path:
    """Where the checkpoints of steps lie on this machine: in the store itself if it is local."""
    return Path(_root(store)) if is_local(store) else environment.scratch()


@contextmanager
def mirrored(store: BaseArtifactStore, folder: Path, *, step: str) -> Iterator[None]:
    """Keep a step's checkpoints in the store while training writes them to ``folder``; in a remote one by
    uploads, after they were fetched if they are newer there.

    When training has ended well they are marked as done with, for :func:`remove_finished`.

    Args:
        step: ZenML id of the step run.
    """
    marker = folder / FINISHED
    marker.unlink(missing_ok=True)
    url = f"{_root(store)}/{folder.name}"
    if is_local(store):
        yield
    else:
        with _uploading(CheckpointMirror(folder, url)):
            yield
        put_file(_written(marker, step), f"{url}/{FINISHED}")
    _written(marker, step)


@contextmanager
def of_several_machines(store: BaseArtifactStore, name: str, *, writes: bool) -> Iterator[Path]:
    """A step's checkpoints on one of several machines that train for it: the step finds what they leave.

    Args:
        name: of the folder in the store.
        writes: whether this machine uploads checkpoints; the others only fetch what is there.
    """
    folder = checkpoint_folder(store) / name
    mirror = CheckpointMirror(folder, f"{_root(store)}/{name}")
    if is_local(store):
        yield folder
    elif writes:
        with _uploading(mirror):
            yield folder
    else:
        mirror.fetch()
        yield folder


def remove_finished(store: BaseArtifactStore) -> None:
    """Remove the checkpoints of steps whose output is in the store."""
    for root in {_root(store), str(environment.scratch())}:
        for marker in fileio.glob(f"{root}/*/{FINISHED}") if fileio.exists(root) else []:
            # Steps that begin at once, each in a pod of its own, come to the same folder. ZenML has a
            # TypeError for one that is gone.
            with suppress(FileNotFoundError, TypeError):
                _remove_if_stored(marker.decode() if isinstance(marker, bytes) else str(marker))


def _remove_if_stored(marker: str) -> None:
    with fileio.open(marker, "r") as stream:
        written = stream.read().strip()
    try:
        step = UUID(written)
    except ValueError:  # a process died while it wrote: what belongs to no known step is kept
        return
    try:
        stored = Client().get_run_step(step).status.is_successful
    except KeyError:
        stored = True  # the run was deleted
    if stored:
        fileio.rmtree(marker.rsplit("/", 1)[0])


@contextmanager
def _uploading(mirror: "CheckpointMirror") -> Iterator[None]:
    mirror.fetch()
    done = threading.Event()
    thread = threading.Thread(target=_keep_up, args=(mirror, done), name="checkpoint-mirror", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        mirror.push()  # what SIGTERM made training write


def _root(store: BaseArtifactStore) -> str:
    return f"{store.path.rstrip('/')}/{FOLDER}"


def _written(marker: Path, step: str) -> Path:
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.write_text(step, encoding="ascii")
    return marker


class CheckpointMirror:
    """A folder's checkpoints and the policies that they name, in a remote store.

    ``index.json`` there names the files of the newest state, and is written last.

    Args:
        url: of the folder in the store.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self._folder, self._url = folder, url
        self._sent: set[str] = set()

    def push(self) -> None:
        """Upload what is complete and not there yet. A failure is logged; the next call tries again."""
        try:
            self._push()
        except FileNotFoundError:
            logger.debug("A checkpoint was replaced during its upload.")
        except Exception as error:  # whatever a store's client raises, training goes on
            logger.warning("Checkpoints could not be uploaded to %s: %s", self._url, error)

    def fetch(self) -> None:
        """Bring the store's checkpoints here, unless those here are as new."""
        index = f"{self._url}/{_INDEX}"
        if not fileio.exists(index):
            return
        with fileio.open(index, "r") as stream:
            names = json.loads(stream.read())
        if _newest(names) <= _newest(self._complete()):
            return
        shutil.rmtree(self._folder, ignore_errors=True)
        self._sent = set(names)
        for name in sorted(names, key=lambda name: name.endswith(MANIFEST)):
            target = self._folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            fileio.copy(f"{self._url}/{name}", str(target), overwrite=True)
        logger.info("Fetched checkpoints from %s", self._url)

    def _push(self) -> None:
        names = self._complete()
        new = [name for name in names if name not in self._sent]
        if not any(name.endswith(MANIFEST) for name in new):
            return  # policies alone are named by no checkpoint yet
        for name in new:
            put_file(self._folder / name, f"{self._url}/{name}")
        with fileio.open(f"{self._url}/{_INDEX}", "w") as stream:
            stream.write(json.dumps(names))
        for name in self._sent - set(names):
            fileio.remove(f"{self._url}/{name}")
        self._sent = set(names)

    def _complete(self) -> list[str]:
        """Files of complete directories, by their path under the folder."""
        directories = [path.parent for path in self._folder.rglob(f"update-*/{MANIFEST}")]
        directories += [path for path in self._folder.rglob("best-*") if path.is_dir()]
        return sorted(
            file.relative_to(self._folder).as_posix()
            for directory in directories
            if not directory.name.startswith(".")
            for file in directory.rglob("*")
            if file.is_file()
        )


def _keep_up(mirror: CheckpointMirror, done: threading.Event) -> None:
    while not done.wait(_SECONDS):
        mirror.push()


def _newest(names: list[str]) -> str:
    """The newest checkpoint's name; empty if there is none."""
    return max((Path(name).parent.name for name in names if name.endswith(MANIFEST)), default="")
