"""What names the code that a checkpoint belongs to: other code would not continue the same run."""

import ast
import hashlib
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import grimp

_ENTRY = "rlhf.training.ppo.trainer"
_LIBRARIES = ("torch", "transformers", "peft")


@cache
def code_identity() -> dict[str, str]:
    """The version of each library that computes, and ``code``: a digest of all modules of this package that
    PPO reaches by imports.

    Syntax trees are hashed, so layout and comments do not count.
    """
    total = hashlib.sha256()
    for module in sorted(_modules()):
        total.update(f"{module}\0{ast.dump(ast.parse(_source(module)))}\n".encode())
    return {"code": total.hexdigest(), **{f"{name} version": version(name) for name in _LIBRARIES}}


def _modules() -> set[str]:
    return {_ENTRY, *grimp.build_graph("rlhf", cache_dir=None).find_upstream_modules(_ENTRY)}


def _source(module: str) -> bytes:
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_bytes()
