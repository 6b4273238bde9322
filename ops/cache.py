"""When a step may be taken from the cache: same inputs, same settings, same code, same dependencies.

ZenML's cache key covers a step's own source, parameters and inputs, but not the modules it calls. Here each
step's key also holds the files that it reaches through imports inside ``rlhf/``, so that a changed helper
invalidates the steps that use it and no others, and the lock file, since a new torch is new code too.
"""

from functools import cache
from pathlib import Path

import grimp
from zenml.config.cache_policy import CachePolicy

from ops.environment import PROJECT_ROOT

_LOCK = "requirements.lock"


def cached_by_content(step_module: str, *called_by_name: str) -> CachePolicy:
    """The policy of a step.

    Args:
        step_module: where the step is defined (pass ``__name__``).
        called_by_name: modules it reaches by dotted names in settings, which no import shows.
    """
    files = {file for module in (step_module, *called_by_name) for file in code_dependencies(module)}
    return CachePolicy(file_dependencies=sorted(files))


def code_dependencies(step_module: str) -> list[str]:
    """The lock file and every ``rlhf`` and ``materializers`` file in a module's import closure.

    Paths are relative to the project root and sorted. Imports inside functions count: grimp reads the
    source, it runs nothing.
    """
    reached = {step_module, *_graph().find_upstream_modules(step_module)}
    files = {_file(module) for module in reached if module.split(".")[0] in {"rlhf", "materializers"}}
    return [_LOCK, *sorted(files)]


@cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph("steps", "rlhf", "materializers", cache_dir=None)


def _file(module: str) -> str:
    path = Path(*module.split("."))
    package = path / "__init__.py"
    return str(package if (PROJECT_ROOT / package).exists() else path.with_suffix(".py"))
