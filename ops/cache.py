"""When a step may be taken from the cache: same inputs, same settings, same code, same dependencies.

ZenML's cache key covers a step's own source, parameters and inputs, but not the modules it calls. Here each
step's key also holds the files that it reaches through imports inside ``rlhf/``, so that a changed helper
invalidates the steps that use it and no others, and the lock file, since a new torch is new code too. What
settings name, models in directories and functions of the user's own, is a parameter, by content.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import grimp
from zenml.config.cache_policy import CachePolicy

from ops.environment import PROJECT_ROOT
from rlhf.feedback.rows import sha256_of
from rlhf.models.reward_content import is_lasting, named_content
from rlhf.models.settings_rewards import RewardSettings
from rlhf.source_code import function_digest

_LOCK = "requirements.lock"


def cached_by_content(step_module: str) -> CachePolicy:
    """The policy of a step.

    Args:
        step_module: where the step is defined (pass ``__name__``).
    """
    return CachePolicy(file_dependencies=sorted(code_dependencies(step_module)))


def content_of(reward: RewardSettings | None) -> str:
    """A digest of the models and functions that a reward's settings name."""
    return "" if reward is None else sha256_of(named_content(reward.model_dump(mode="json")))


def code_of(functions: Mapping[str, str]) -> str:
    """A digest of the code of functions (``package.module:name``) by name."""
    return sha256_of({name: function_digest(function) for name, function in functions.items()})


def unless_fleeting(reward: RewardSettings | None) -> bool | None:
    """A step's ``enable_cache``: off where nobody can tell whether the reward is still the same, otherwise as
    the run has it."""
    return None if reward is None or is_lasting(reward.model_dump(mode="json")) else False


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
