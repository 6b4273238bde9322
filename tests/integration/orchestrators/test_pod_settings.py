"""Pod settings against the classes of Kubernetes' own client, which an installation that submits to a cluster
has."""

from typing import Any

import pytest
import yaml

from ops.environment import CONFIGS
from ops.zenml_blocks import wrong_blocks

pytestmark = pytest.mark.orchestrators
pytest.importorskip("kubernetes", reason="run `make test-orchestrators`")

AT = "settings.orchestrator.kubernetes.pod_settings"


def _problems(**pod: Any) -> list[str]:
    return [
        str(problem)
        for problem in wrong_blocks({"settings": {"orchestrator.kubernetes": {"pod_settings": pod}}})
    ]


@pytest.mark.parametrize(
    ("pod", "problem"),
    [
        (
            {"tolerations": [{"key": "nvidia.com/gpu", "efect": "NoSchedule"}]},
            f"{AT}.tolerations.0: 'efect' is no key of a Kubernetes Toleration, did you mean 'effect'?",
        ),
        (
            {"volumes": [{"name": "shm", "emptyDir": {"size_limit": "8Gi"}}]},
            f"{AT}.volumes.0: 'size_limit' is no key of a Kubernetes EmptyDirVolumeSource, did you mean "
            "'sizeLimit'?",
        ),
        (
            {"env_from": [{"secret": {"name": "a"}}]},
            f"{AT}.env_from.0: 'secret' is no key of a Kubernetes EnvFromSource, did you mean 'secretRef'?",
        ),
        (
            {"additional_pod_spec_args": {"securityContext": {}}},
            f"{AT}.additional_pod_spec_args.securityContext: not a part of a pod's spec, did you mean "
            "'security_context'?",
        ),
        (
            {"additional_pod_spec_args": {"security_context": {"runAsNonRot": True}}},
            f"{AT}.additional_pod_spec_args.security_context: 'runAsNonRot' is no key of a Kubernetes "
            "PodSecurityContext, did you mean 'runAsNonRoot'?",
        ),
        ({"tolerations": ["all"]}, f"{AT}.tolerations.0: is not a Kubernetes Toleration"),
    ],
)
def test_a_key_that_a_cluster_does_not_know_is_named(pod: dict[str, Any], problem: str) -> None:
    assert _problems(**pod) == [problem]


def test_what_a_cluster_knows_is_taken() -> None:
    assert (
        _problems(
            resources={"limits": {"nvidia.com/gpu": "1"}},
            tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists"}],
            additional_pod_spec_args={
                "security_context": {"runAsNonRoot": True},
                "priority_class_name": "batch",
            },
        )
        == []
    )


def test_the_cluster_takes_the_accounts_and_rights_that_are_shipped() -> None:
    from zenml.integrations.kubernetes.serialization_utils import deserialize_kubernetes_model

    found = list(yaml.safe_load_all((CONFIGS / "stacks" / "kubernetes-access.yaml").read_text()))
    for manifest in found:
        deserialize_kubernetes_model(manifest, f"V1{manifest['kind']}")
    accounts = {one["metadata"]["name"] for one in found if one["kind"] == "ServiceAccount"}
    assert accounts == {"rlhf", "rlhf-steps"}
    [binding] = [one for one in found if one["kind"] == "RoleBinding"]
    assert [subject["name"] for subject in binding["subjects"]] == ["rlhf"]
