"""ZenML's blocks in a config (``settings``, ``steps``), checked before ZenML sees them: it drops keys that it
does not know, with a warning at most, and a step then computes on the wrong kind of node.
"""

import importlib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from ops.problems import Problem, fields_at, models_in, nearest

# By name, so that a check needs no client of a cluster and no server of ZenML's.
_FLAVORS: Mapping[str, str] = {
    "orchestrator.kubernetes": "kubernetes.flavors:KubernetesOrchestratorSettings",
    "orchestrator.kubeflow": "kubeflow.flavors.kubeflow_orchestrator_flavor:KubeflowOrchestratorSettings",
    "orchestrator.ssh": "ssh.flavors:SSHOrchestratorSettings",
    "orchestrator.sagemaker": "aws.flavors.sagemaker_orchestrator_flavor:SagemakerOrchestratorSettings",
    "orchestrator.vertex": "gcp.flavors.vertex_orchestrator_flavor:VertexOrchestratorSettings",
    "step_operator.kubernetes": "kubernetes.flavors:KubernetesStepOperatorSettings",
    "step_operator.ssh": "ssh.flavors:SSHStepOperatorSettings",
    "experiment_tracker.mlflow": "mlflow.flavors:MLFlowExperimentTrackerSettings",
}
_POD_PARTS: Mapping[str, str] = {
    "affinity": "V1Affinity",
    "container_security_context": "V1SecurityContext",
    "env": "V1EnvVar",
    "env_from": "V1EnvFromSource",
    "resources": "V1ResourceRequirements",
    "tolerations": "V1Toleration",
    "volume_mounts": "V1VolumeMount",
    "volumes": "V1Volume",
}
"""Parts of a pod's settings and the classes of Kubernetes' API, whose keys are in camel case."""
_PODS = ("pod_settings", "orchestrator_pod_settings")
_SECRET = re.compile(r"(^|_)(TOKEN|SECRET|PASSWORD|PASSPHRASE|CREDENTIALS?|KEY)$", re.IGNORECASE)


def wrong_blocks(config: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with a config's ``settings`` and ``steps``: keys that ZenML would drop, values that it or
    Kubernetes would refuse, secrets that are written out, and what an orchestrator ignores."""
    from zenml.config.step_configurations import StepConfigurationUpdate

    problems = list(_written_secrets(config.get("environment"), "environment"))
    for at, block in _places(config):
        problems += _wrong_settings(block, at)
    for name, step in _blocks(config.get("steps")):
        fields = StepConfigurationUpdate.model_fields
        problems += [
            Problem(f"steps.{name}.{key}", f"unknown key{nearest(str(key), fields)}")
            for key in step
            if key not in fields
        ]
        problems += _written_secrets(step.get("environment"), f"steps.{name}.environment")
    return [*problems, *_ignored(config)]


def wrong_stack(config: Mapping[str, Any], flavors: Mapping[str, Collection[str]]) -> list[Problem]:
    """Blocks that speak to another stack than the one a run would start on, where ZenML leaves them out.

    Args:
        flavors: of the stack's components, by their type.
    """
    asked: dict[str, dict[str, str]] = {}
    for at, block in _places(config):
        for key in block:
            kind, dot, flavor = str(key).partition(".")
            if dot:
                asked.setdefault(kind, {}).setdefault(flavor, f"{at}.{key}")
    problems = []
    for kind, places in asked.items():
        there = flavors.get(kind, ())
        if not set(places) & set(there):
            has = f"the {kind} {', '.join(sorted(there))}" if there else f"no {kind}"
            problems.append(
                Problem(
                    next(iter(places.values())),
                    f"is not for the stack of this run, which has {has}; choose the stack with "
                    "`zenml stack set` and start with --keep-stack",
                )
            )
    return problems


def stack_component_types() -> list[str]:
    """What a stack is made of, as ZenML's settings name it."""
    from zenml.enums import StackComponentType

    return list(StackComponentType.values())


def _places(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every ``settings`` block with its key."""
    if isinstance(config.get("settings"), Mapping):
        yield "settings", config["settings"]
    for name, step in _blocks(config.get("steps")):
        if isinstance(step.get("settings"), Mapping):
            yield f"steps.{name}.settings", step["settings"]


def _blocks(steps: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(steps, Mapping):
        yield from ((str(name), step) for name, step in steps.items() if isinstance(step, Mapping))


def _wrong_settings(settings: Mapping[str, Any], at: str) -> list[Problem]:
    from zenml.utils.settings_utils import get_general_settings, is_valid_setting_key

    known: Mapping[str, type[BaseModel]] = get_general_settings()
    problems: list[Problem] = []
    for key, block in settings.items():
        where = f"{at}.{key}"
        if not is_valid_setting_key(str(key)):
            meant = nearest(str(key), [*known, *_FLAVORS])
            problems.append(
                Problem(where, f"no setting of ZenML's{meant}; they are docker, resources and type.flavor")
            )
            continue
        model = known.get(key) or _settings_of(str(key))
        if model is None or not isinstance(block, Mapping):
            continue
        found = _unknown_keys(model, block, where)
        for part in _PODS:
            if isinstance(block.get(part), Mapping):
                found += _wrong_pod(block[part], f"{where}.{part}")
        for part in ("environment", "runtime_environment"):
            found += _written_secrets(block.get(part), f"{where}.{part}")
        problems += found or _wrong_values(model, block, where)
    return problems


def _settings_of(key: str) -> type[BaseModel] | None:
    if key not in _FLAVORS:
        return None
    module, _, name = _FLAVORS[key].partition(":")
    found: type[BaseModel] = getattr(importlib.import_module(f"zenml.integrations.{module}"), name)
    return found


def _unknown_keys(model: type[BaseModel], block: Mapping[str, Any], at: str) -> list[Problem]:
    problems = []
    for key, value in block.items():
        if key not in model.model_fields:
            meant = nearest(str(key), fields_at(model, []))
            problems.append(Problem(f"{at}.{key}", f"unknown key{meant}; ZenML would drop it"))
        elif isinstance(value, Mapping):
            for inner in models_in(model.model_fields[key].annotation):
                problems += _unknown_keys(inner, value, f"{at}.{key}")
    return problems


def _wrong_values(model: type[BaseModel], block: Mapping[str, Any], at: str) -> list[Problem]:
    try:
        # without pods: their validators need Kubernetes' client, and have been gone before
        model.model_validate({key: value for key, value in block.items() if key not in _PODS})
    except ValidationError as error:
        return [
            Problem(".".join([at, *map(str, item["loc"])]), item["msg"].removeprefix("Value error, "))
            for item in error.errors()
        ]
    except ModuleNotFoundError:  # Kubeflow's settings always load Kubernetes' client
        return []
    return []


def _wrong_pod(pod: Mapping[str, Any], at: str) -> list[Problem]:
    """What Kubernetes would not understand of a pod; without its client package, secrets alone are looked
    for."""
    problems = []
    for position, variable in enumerate(pod.get("env") or []):
        if isinstance(variable, Mapping) and "value" in variable:
            written = {str(variable.get("name", "")): variable["value"]}
            problems += _written_secrets(written, f"{at}.env.{position}")
    try:
        models = importlib.import_module("kubernetes.client.models")
    except ModuleNotFoundError:
        return problems
    for part, name in _POD_PARTS.items():
        value = pod.get(part)
        if isinstance(value, list):
            for position, one in enumerate(value):
                problems += _not_a(name, one, f"{at}.{part}.{position}")
        else:
            problems += _not_a(name, value, f"{at}.{part}")
    spec = models.V1PodSpec.openapi_types
    for key, value in (pod.get("additional_pod_spec_args") or {}).items():
        where = f"{at}.additional_pod_spec_args.{key}"
        if key not in spec:
            problems.append(Problem(where, f"not a part of a pod's spec{nearest(_snake(str(key)), spec)}"))
        elif hasattr(models, spec[key]):
            problems += _not_a(spec[key], value, where)
    return problems


def _not_a(name: str, value: Any, at: str) -> list[Problem]:
    """Whether a value is one of Kubernetes' objects, down to its leaves."""
    from zenml.integrations.kubernetes.serialization_utils import deserialize_kubernetes_model

    if not value:
        return []
    try:
        deserialize_kubernetes_model(value, name)
    except KeyError as error:  # ZenML's message has the key, the class, and all keys that there are
        said = str(error.args[0]).split(":")[0].removeprefix("Got value for attribute ")
        key, _, rest = said.partition(" ")
        kind = rest.rsplit("class ", 1)[-1]
        known = getattr(importlib.import_module("kubernetes.client.models"), kind).attribute_map.values()
        return [Problem(at, f"{key!r} is no key of a Kubernetes {kind[2:]}{nearest(key, known)}")]
    except (ValueError, TypeError, AttributeError, AssertionError) as error:
        reason = f": {error}" if isinstance(error, ValueError) else ""
        return [Problem(at, f"is not a Kubernetes {name[2:]}{reason}")]
    return []


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _written_secrets(variables: Any, at: str) -> list[Problem]:
    """Environment variables that look like secrets and have a value in the config, where runs keep it."""
    if not isinstance(variables, Mapping):
        return []
    return [
        Problem(
            f"{at}.{name}",
            "looks like a secret, and a run keeps its config; give it by reference: pod_settings.env with "
            "valueFrom.secretKeyRef, or pod_settings.env_from",
        )
        for name, value in variables.items()
        if value and _SECRET.search(str(name))
    ]


def _ignored(config: Mapping[str, Any]) -> list[Problem]:
    """Settings that are ZenML's, but that the orchestrator they are meant for leaves out."""
    keys = {str(key) for _, block in _places(config) for key in block}
    problems = []
    for at, block in _places(config):
        if "orchestrator.kubernetes" in keys and "resources" in block:
            problems.append(
                Problem(
                    f"{at}.resources",
                    "the Kubernetes orchestrator ignores it; write "
                    "settings.orchestrator.kubernetes.pod_settings.resources",
                )
            )
        if "orchestrator.kubeflow" in keys and "memory" in (block.get("resources") or {}):
            problems.append(
                Problem(
                    f"{at}.resources.memory",
                    "ZenML hands it to Kubeflow in a form that kfp refuses; leave it to a LimitRange there",
                )
            )
        kubeflow = block.get("orchestrator.kubeflow")
        if isinstance(kubeflow, Mapping) and "pod_settings" in kubeflow:
            problems.append(
                Problem(
                    f"{at}.orchestrator.kubeflow.pod_settings",
                    "ZenML drops it; give the step to a step operator as configs/profiles/kubeflow.yaml does",
                )
            )
    return problems
