"""The machines of one run, as an orchestrator tells each of them in its environment."""

from collections.abc import Mapping
from dataclasses import dataclass

from rlhf.errors import ConfigError


@dataclass(frozen=True)
class Machines:
    """All machines of a run, as one of them sees them."""

    count: int
    index: int
    """This one, from 0; process 0 of machine 0 writes files and reports metrics."""
    address: str
    """Of machine 0, as all of them reach it."""
    port: int
    """On machine 0, where the processes find each other. Whoever reaches it can take part: open it to the
    run's own network only."""


@dataclass(frozen=True)
class _Variables:
    """What an orchestrator calls the fields of :class:`Machines`."""

    orchestrator: str
    count: str
    index: str
    address: str
    port: str


_KNOWN = (
    _Variables(
        "ZenML's Kubernetes step operator",
        count="ZENML_KUBERNETES_POD_COUNT",
        index="JOB_COMPLETION_INDEX",  # Kubernetes' own, of indexed jobs
        address="ZENML_KUBERNETES_MAIN_ADDRESS",
        port="ZENML_KUBERNETES_MAIN_PORT",
    ),
    _Variables(
        "Kubeflow Trainer",
        count="PET_NNODES",
        index="PET_NODE_RANK",
        address="PET_MASTER_ADDR",
        port="PET_MASTER_PORT",
    ),
)


def machines_of(environment: Mapping[str, str]) -> Machines | None:
    """The machines that take part besides this one; ``None`` where none do.

    Args:
        environment: of this process, in which ZenML's Kubernetes step operator (``pod_count``) or Kubeflow
            Trainer (a ``TrainJob`` of a torch runtime) has set its variables.

    Raises:
        ConfigError: variables are missing or no numbers, or this machine's index is beyond their count.
    """
    for names in _KNOWN:
        if names.count not in environment:
            continue
        needed = (names.count, names.index, names.address, names.port)
        if _number(environment, names.count) == 1:
            return None
        if missing := [name for name in needed if not environment.get(name)]:
            raise ConfigError(
                f"{names.count} tells of several machines, but {', '.join(missing)} of {names.orchestrator} "
                "is not set; start the job through it, or unset all of its variables."
            )
        found = Machines(
            count=_number(environment, names.count),
            index=_number(environment, names.index),
            address=environment[names.address],
            port=_number(environment, names.port),
        )
        if found.index >= found.count:
            raise ConfigError(
                f"{names.index} is {found.index}, but {names.count} is {found.count}; indices start at 0."
            )
        return found
    return None


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment[name]
    if not value.isdecimal():
        raise ConfigError(f"{name} is '{value}', not a whole number; let the orchestrator set it.")
    return int(value)
