"""ZenML in a process beside this one. ZenML and MLflow take a second each to import: a command that needs
both, and that a person waits for, loads them side by side."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context


@dataclass(frozen=True)
class MirroredVersion:
    """What ZenML is told of a registered version."""

    version: str
    digest: str
    """Of its content; empty for one that was registered by other means."""
    artifact: str | None
    """Id of ZenML's artifact version."""
    created: int
    """When it was registered, in milliseconds."""


class ZenMLProcess:
    """Make it before anything heavy is imported or a thread is started: the process begins as a copy of this
    one. It ends with it."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(max_workers=1, mp_context=get_context("fork"))
        self._registry_uri = self._pool.submit(registry_uri)

    def registry_uri(self) -> str | None:
        """See :func:`registry_uri`."""
        return self._registry_uri.result()

    def mirror(
        self, name: str, description: str, versions: Sequence[MirroredVersion], aliases: Mapping[str, str]
    ) -> None:
        """See :func:`ops.model_control_plane.mirror`."""
        self._pool.submit(mirror, name, description, versions, aliases).result()


def registry_uri() -> str | None:
    """The tracking URI of the active stack's MLflow tracker, without loading the stack, which takes a second;
    one that refers to a secret needs the stack to fill it in."""
    from zenml.client import Client
    from zenml.enums import StackComponentType

    trackers = Client().active_stack_model.components.get(StackComponentType.EXPERIMENT_TRACKER, [])
    uri = next((t.configuration.get("tracking_uri") for t in trackers if t.flavor_name == "mlflow"), None)
    if uri is None or "{{" in uri:
        from ops.stage import tracking_uri

        return tracking_uri()
    return str(uri)


def mirror(
    name: str, description: str, versions: Sequence[MirroredVersion], aliases: Mapping[str, str]
) -> None:
    """See :func:`ops.model_control_plane.mirror`, which loads ZenML."""
    from ops import model_control_plane

    model_control_plane.mirror(name, description, versions, aliases)
