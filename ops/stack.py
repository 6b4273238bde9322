"""The local stack: orchestrator, artifact store, MLflow tracker and registry, registered idempotently."""

import logging
from dataclasses import dataclass
from uuid import UUID

from zenml.client import Client
from zenml.enums import StackComponentType

from ops import environment

logger = logging.getLogger(__name__)

STACK = "rlhf-local"
_MLFLOW = "rlhf-mlflow"


@dataclass(frozen=True)
class _Component:
    kind: StackComponentType
    name: str
    flavor: str
    configuration: dict[str, str]


def ensure_local_stack(*, activate: bool = True) -> UUID:
    """Register ``rlhf-local`` if it is not there, bring its paths up to date, and make it the active stack.

    Returns:
        The stack's id.
    """
    client = Client()
    components = {c.kind: _ensure(client, c) for c in _components()}
    existing = client.list_stacks(name=STACK)
    if existing.total:
        stack = existing.items[0]
    else:
        stack = client.create_stack(STACK, {kind: str(id_) for kind, id_ in components.items()})
        logger.info("Registered the stack %s.", STACK)
    if activate and client.active_stack_model.id != stack.id:
        client.activate_stack(stack.id)
    return stack.id


def _components() -> list[_Component]:
    environment.mlflow_database().parent.mkdir(parents=True, exist_ok=True)
    environment.artifact_store().mkdir(parents=True, exist_ok=True)
    return [
        _Component(StackComponentType.ORCHESTRATOR, STACK, "local", {}),
        _Component(
            StackComponentType.ARTIFACT_STORE, STACK, "local", {"path": str(environment.artifact_store())}
        ),
        _Component(
            StackComponentType.EXPERIMENT_TRACKER,
            _MLFLOW,
            "mlflow",
            {"tracking_uri": environment.mlflow_uri()},
        ),
        _Component(StackComponentType.MODEL_REGISTRY, _MLFLOW, "mlflow", {}),
    ]


def _ensure(client: Client, wanted: _Component) -> UUID:
    found = client.list_stack_components(type=wanted.kind, name=wanted.name)
    if not found.total:
        return client.create_stack_component(
            name=wanted.name,
            flavor=wanted.flavor,
            component_type=wanted.kind,
            configuration=wanted.configuration,
        ).id
    component = found.items[0]
    current = component.configuration
    if any(current.get(key) != value for key, value in wanted.configuration.items()):
        # The checkout was moved: the registered paths are those of its old place.
        client.update_stack_component(component.id, wanted.kind, configuration=wanted.configuration)
    return component.id
