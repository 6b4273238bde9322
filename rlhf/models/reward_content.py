"""What a reward's settings mean beyond their letters: the weights in a directory, the code of a function.

Light, like the settings: a pipeline asks while it is wired, so that a step that trained under another reward
is not taken from the cache.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf.models.directory import model_identity
from rlhf.source_code import function_digest


def named_content(reward: Any) -> Any:
    """A reward's settings as JSON with the content of each model in place of its directory, and with the code
    of each function beside its name."""
    if isinstance(reward, list):
        return [named_content(part) for part in reward]
    if not isinstance(reward, Mapping):
        return reward
    found = {k: model_identity(v) if k == "path" else named_content(v) for k, v in reward.items()}
    if found.get("type") == "function":
        found["code"] = function_digest(found["function"])
    return found


def is_lasting(reward: Any) -> bool:
    """Whether equal settings (as JSON) mean equal scores for ever: not with a server in the tree, nor with a
    hub repository without a commit."""
    if isinstance(reward, list):
        return all(map(is_lasting, reward))
    if not isinstance(reward, Mapping):
        return True
    if reward.get("type") == "http":
        return False
    on_hub = "path" in reward and not Path(reward["path"]).is_dir()
    return not (on_hub and not is_commit(reward.get("revision"))) and all(map(is_lasting, reward.values()))


def is_commit(revision: str | None) -> bool:
    """Whether a revision names a commit in full; branches and tags can move."""
    return revision is not None and len(revision) == 40 and not set(revision) - set("0123456789abcdef")
