"""In what two registered versions differ: origin, training, judgement."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlhf.models.directory import TRAINING
from rlhf.registry.journal import HISTORY_PREFIX
from rlhf.registry.store import RegisteredVersion

Difference = tuple[str, str, str]


def differences(left: RegisteredVersion, right: RegisteredVersion) -> Iterator[Difference]:
    """What differs, as (name, left, right); absent values are empty."""
    yield from _compared(
        {"digest": left.digest, "path": left.path}, {"digest": right.digest, "path": right.path}
    )
    yield from _compared(_tags(left), _tags(right))
    yield from _compared(_settings(left), _settings(right))


def _compared(left: Mapping[str, str], right: Mapping[str, str]) -> Iterator[Difference]:
    for name in sorted({*left, *right}):
        if left.get(name) != right.get(name):
            yield name, left.get(name, ""), right.get(name, "")


def _tags(version: RegisteredVersion) -> dict[str, str]:
    return {k: v for k, v in version.tags.items() if not k.startswith((HISTORY_PREFIX, "rlhf."))}


def _settings(version: RegisteredVersion) -> dict[str, str]:
    """Training settings by dotted name; none where the files are gone or lie in a remote store."""
    file = Path(version.path) / TRAINING
    if "://" in version.path or not file.is_file():
        return {}
    return dict(_flat("", json.loads(file.read_text(encoding="utf-8"))))


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}" if name else key, inner)
    else:
        yield name, json.dumps(value, ensure_ascii=False)
