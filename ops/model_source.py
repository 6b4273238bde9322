"""The ``source`` of a registered version: the artifact's own directory wherever MLflow accepts it.

An MLflow *server* refuses a local path outside the run's artifact directory (anyone could register /etc).
Hard links inside it satisfy the server without a second copy of the weights; only a server that keeps
artifacts elsewhere gets an upload.
"""

import logging
import os
import shutil
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from mlflow.tracking import MlflowClient

from ops.tracking import mlflow_is_local
from rlhf.errors import ConfigError

logger = logging.getLogger(__name__)


def version_source(client: MlflowClient, path: str, run_id: str | None, digest: str) -> str:
    """Where MLflow will load the version from.

    Args:
        path: the model directory: a local path, or a URI of an object store, which is used as it is.
        run_id: the MLflow run that a server ties local sources to.

    Raises:
        ConfigError: a server, a local path, and no run to tie it to.
    """
    if "://" in path or mlflow_is_local(client):
        return path
    if run_id is None:
        raise ConfigError(
            f"The MLflow server at {client.tracking_uri} accepts a local model only as part of a run, and "
            "this run could not be opened there; start the server and run the pipeline again."
        )
    artifacts = client.get_run(run_id).info.artifact_uri
    folder = f"models/{digest[:16]}"
    root = _local_path(artifacts)
    if root is None:
        logger.warning("The MLflow server keeps artifacts at %s: the model is uploaded there.", artifacts)
        client.log_artifacts(run_id, path, folder)
        return f"{artifacts.rstrip('/')}/{folder}"
    return str(_link_tree(Path(path), root / folder))


def _local_path(uri: str) -> Path | None:
    parsed = urlparse(uri)
    if parsed.scheme == "":
        return Path(uri)
    return Path(url2pathname(parsed.path)) if parsed.scheme == "file" else None


def _link_tree(source: Path, target: Path) -> Path:
    """The same files under another directory: hard links, or copies where the file system differs."""
    if target.exists():
        return target
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(source, partial, copy_function=os.link)
    except shutil.Error:
        logger.warning("%s and %s are on different file systems: the model is copied.", source, target)
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial)
    partial.rename(target)
    return target
