"""ZenML's integrations, of which a run of ours needs few."""

from zenml.integrations.registry import integration_registry

_UNUSED = ("mlflow", "numpy", "pandas", "pillow", "pytorch", "scipy", "sklearn")


def leave_out_unused() -> None:
    """Keep ZenML from loading torch, scikit-learn and others before the first run in a process.

    It activates every integration whose packages are installed, for their materializers and, of MLflow's, for
    model deployers. All outputs here have materializers of their own, stack components are loaded when they
    are used, and a run that comes from the cache, or a check that finds nothing to train on, needs no torch.
    """
    for name in _UNUSED:
        integration_registry.integrations[name].activate = staticmethod(lambda: None)  # type: ignore[method-assign]
