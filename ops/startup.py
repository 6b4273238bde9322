"""What ZenML does before a run that is of no use to ours, left out: seconds of every start."""

from functools import cache
from importlib.metadata import distributions

from zenml.environment import Environment
from zenml.integrations.registry import integration_registry

_UNUSED = ("mlflow", "numpy", "pandas", "pillow", "pytorch", "scipy", "sklearn")


def shorten_startup() -> None:
    """Make ZenML start a run without torch, scikit-learn and ``pip freeze``.

    It activates every integration whose packages are installed, for their materializers and, of MLflow's, for
    model deployers. All outputs here have materializers of their own, stack components are loaded when they
    are used, and a run that comes from the cache, or a check that finds nothing to train on, needs no torch.
    The list of packages that it keeps with each run is asked of pip twice; Python itself knows them.
    """
    for name in _UNUSED:
        integration_registry.integrations[name].activate = staticmethod(lambda: None)  # type: ignore[method-assign]
    Environment.get_python_packages = staticmethod(_installed)  # type: ignore[method-assign]


@cache
def _installed() -> list[str]:
    found = {f"{package.name}=={package.version}" for package in distributions()}
    return sorted(found, key=str.lower)
