"""What suites depend on beyond their settings: the content of files, models and functions that they name.

Light, like the settings: a pipeline asks while it is wired, so that an evaluation on other files is not taken
from the cache.
"""

import hashlib
from pathlib import Path
from typing import Any

from rlhf.evaluation.suites.settings import SuitesSettings
from rlhf.feedback.rows import sha256_of
from rlhf.models.reward_content import is_lasting, named_content


def suites_content(settings: SuitesSettings) -> str:
    """A digest of all that the suites name, by content; empty without suites. A file that is absent counts as
    such: the run itself says so."""
    if not settings.chosen:
        return ""
    files: dict[str, Any] = {}
    for key, path in settings.files():
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        files[f"{key} {path}"] = [_digest(file) for file in inside]
    scorers = {name: named_content(s.model_dump(mode="json")) for name, s in settings.scorers.items()}
    return sha256_of({"files": files, "scorers": scorers})


def are_lasting(settings: SuitesSettings) -> bool:
    """Whether equal settings mean equal figures for ever: not with a judge or a scorer behind an endpoint,
    nor with a hub's classifier without a commit, nor with the harness's tasks, whose data are the hub's."""
    if settings.llm_judge is not None or settings.lm_eval is not None:
        return False
    return all(is_lasting(scorer.model_dump(mode="json")) for scorer in settings.scorers.values())


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "absent"
