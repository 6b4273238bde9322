"""What a run must share with a checkpoint to continue it: code, settings, models and data, each by name.

A difference in any of them would make another run of it, so the checkpoint is refused and the name is told.
"""

import ast
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grimp

from rlhf.feedback.rows import sha256_of
from rlhf.models.chat import Prompt
from rlhf.training.ppo.checkpoint import model_identity
from rlhf.training.ppo.settings import PPOSettings

_ENTRY = "rlhf.training.ppo.trainer"
_LIBRARIES = ("torch", "transformers", "peft")
_NOT_IDENTITY = {"checkpoint_every", "keep_checkpoints", "processes"}
"""Settings that may differ between a run and its continuation."""


def run_identity(
    settings: PPOSettings,
    *,
    policy: Path | str,
    policy_base: Path | str | None,
    critic: Path | None,
    prompts: Sequence[Prompt],
    dev_prompts: Sequence[Prompt],
    demonstrations: Sequence[tuple[Prompt, str]],
) -> dict[str, Any]:
    """JSON-able values by the names that an error tells; models and data by digest."""
    return {
        **{f"ppo.{k}": v for k, v in settings.model_dump(mode="json").items() if k not in _NOT_IDENTITY},
        "policy": model_identity(policy),
        "policy base": None if policy_base is None else model_identity(policy_base),
        "critic": None if critic is None else model_identity(critic),
        "prompts": sha256_of(list(prompts)),
        "dev prompts": sha256_of(list(dev_prompts)),
        "demonstrations": sha256_of(list(demonstrations)),
        **code_identity(),
    }


@cache
def code_identity(*entries: str) -> dict[str, str]:
    """The version of each library that computes, and ``code``: a digest of all modules of this package that
    the modules ``entries`` (by default PPO's trainer) reach by imports.

    Syntax trees are hashed, so layout and comments do not count.
    """
    total = hashlib.sha256()
    for module in sorted(_modules(entries or (_ENTRY,))):
        total.update(f"{module}\0{ast.dump(ast.parse(_source(module)))}\n".encode())
    return {"code": total.hexdigest(), **{f"{name} version": version(name) for name in _LIBRARIES}}


def _modules(entries: Sequence[str]) -> set[str]:
    graph = grimp.build_graph("rlhf", cache_dir=None)
    return {*entries, *(module for entry in entries for module in graph.find_upstream_modules(entry))}


def _source(module: str) -> bytes:
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_bytes()
