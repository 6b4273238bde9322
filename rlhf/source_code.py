"""What names code: a digest of the syntax trees of modules and of what they import from their own package.

Layout and comments do not count. Nothing is imported or run to find it out.
"""

import ast
import hashlib
import inspect
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grimp
from grimp.exceptions import GrimpException


def code_digest(*modules: str) -> str:
    """SHA-256 over ``modules`` and all that they reach by imports within their own top-level packages; of a
    module without a source file only the name counts."""
    total = hashlib.sha256()
    for module in sorted({reached for entry in modules for reached in reached_modules(entry)}):
        total.update(f"{module}\0{ast.dump(ast.parse(source(module)))}\n".encode())
    return total.hexdigest()


def function_digest(name: str) -> str:
    """:func:`code_digest` of the module of ``package.module:function``."""
    return code_digest(name.partition(":")[0])


def callable_identity(function: Callable[..., Any]) -> str:
    """What names a function, or an object that is called: where it is defined, and a digest of the code.

    Of one that was written in a notebook or script the digest covers its own source alone. Values that it
    holds (a closure's, an object's attributes) are not seen.
    """
    if isinstance(function, partial):
        return f"{callable_identity(function.func)} {function.args!r} {function.keywords!r}"
    known = function if hasattr(function, "__qualname__") else type(function)
    module = known.__module__ or "__main__"  # code from exec has none
    if module != "__main__" and source(module):
        return f"{module}:{known.__qualname__} {code_digest(module)}"
    try:
        own = inspect.getsource(known)
    except (OSError, TypeError):  # typed at a prompt, or not written in Python
        own = ""
    return f"{module}:{known.__qualname__} {hashlib.sha256(own.encode()).hexdigest()}"


def reached_modules(entry: str) -> set[str]:
    """A module and those of its own package that it reaches by imports."""
    graph = _graph(entry.partition(".")[0])
    if graph is None or entry not in graph.modules:
        return {entry}
    return {entry, *graph.find_upstream_modules(entry)}


def source(module: str) -> bytes:
    """The source of a module; empty where it has none in Python."""
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):  # ValueError: a module that was never imported under its name
        return b""
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return b""
    return Path(spec.origin).read_bytes()


@cache
def _graph(package: str) -> grimp.ImportGraph | None:
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    try:
        return grimp.build_graph(package, cache_dir=None)
    except GrimpException:
        return None
