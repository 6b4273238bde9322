"""Profiles: where a run computes, laid under the config that says what it computes.

A profile is a YAML file with ZenML's own blocks (``settings``, ``steps``) and whatever else a place asks for,
such as the address of the ledger. ``profile: kubernetes`` in a config, or ``profile=kubernetes`` among the
overrides, takes the one that is shipped; a path takes one's own.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ops.environment import CONFIGS
from ops.problems import nearest
from rlhf.errors import ConfigError

KEY = "profile"
PROFILES = CONFIGS / "profiles"


def shipped_profiles() -> list[Path]:
    """The profiles in ``configs/profiles/``, by name."""
    return sorted(PROFILES.glob("*.yaml"))


def find_profile(name_or_path: str) -> Path:
    """A shipped profile by name, or a file.

    Raises:
        ConfigError: neither exists.
    """
    for candidate in (PROFILES / f"{name_or_path}.yaml", Path(name_or_path)):
        if candidate.is_file():
            return candidate
    names = [path.stem for path in shipped_profiles()]
    raise ConfigError(
        f"{KEY}: there is no profile {name_or_path!r}{nearest(name_or_path, names)}; shipped are "
        f"{', '.join(names)}, and a path to a YAML file works too."
    )


def asked_profile(config: Mapping[str, Any], overrides: Iterable[str]) -> str | None:
    """The profile that a config or, before it, an override names."""
    named = config.get(KEY)
    for override in overrides:
        key, equals, value = override.partition("=")
        if key == KEY and equals:
            named = yaml.safe_load(value)
    if named is not None and not isinstance(named, str):
        raise ConfigError(f"{KEY}: must be the name or the path of one profile (got {named!r}).")
    return named


def laid_under(config: Mapping[str, Any], profile: Mapping[str, Any]) -> dict[str, Any]:
    """A config with what a profile adds: blocks are merged, and of any other value the config's counts."""
    merged = _apart(dict(profile))
    for key, value in config.items():
        below = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        merged[key] = laid_under(value, below) if both else _apart(value)
    return merged


def _apart(node: Any) -> Any:
    """A copy in which no two places share an object, as those do that YAML's anchors lead to: to override one
    must not change the other."""
    if isinstance(node, Mapping):
        return {key: _apart(value) for key, value in node.items()}
    return [_apart(value) for value in node] if isinstance(node, list) else node
