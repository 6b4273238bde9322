"""Which code made a run: the commit, whether the tree was clean, and the versions that matter."""

import os
import subprocess
from functools import cache
from importlib.metadata import version

from ops.environment import PROJECT_ROOT

REVISION = "RLHF_REVISION"
"""Environment variable with the commit that an image was built from."""
_PACKAGES = ("torch", "transformers", "trl", "zenml", "mlflow")


@cache
def code_version() -> dict[str, str]:
    """Tags for a run. Outside a git checkout (an image, a wheel) the commit is known only if the image names
    it."""
    tags = {f"version.{name}": version(name) for name in _PACKAGES}
    commit = _git("rev-parse", "HEAD")
    if commit:
        tags["git.commit"] = tags["mlflow.source.git.commit"] = commit
        tags["git.dirty"] = str(bool(_git("status", "--porcelain"))).lower()
    elif commit := os.environ.get(REVISION, ""):
        tags["git.commit"] = tags["mlflow.source.git.commit"] = commit
    return tags


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=10, check=False
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
