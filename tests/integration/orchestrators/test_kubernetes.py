"""A whole run through ZenML's Kubernetes orchestrator: real servers, the shipped profile and stack, the
recording API server in place of a cluster."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.mlflow_server import MLflowServer
from tests.pipelines.conftest import TINY

from .conftest import IMAGE, Workplace, packages
from .zenml_server import ZenMLServer

pytestmark = [pytest.mark.orchestrators, pytest.mark.timeout(400)]

SECRET = "only-the-cluster-knows"
NAMESPACE = "/api/v1/namespaces/rlhf"
GPU_STEPS = {
    "pretrain",
    "train_sft",
    "train_proxy_reward_model",
    "train_selection_reward_model",
    "train_judge_reward_model",
    "train_policy",
    "evaluate_policy",
}
CPU_STEPS = {"ingest_feedback", "prepare_datasets", "resolve_champion", "promote_policy"}


@dataclass
class Cluster:
    """The cluster, and who starts runs on it."""

    kubelet: Any
    workplace: Workplace

    @property
    def jobs(self) -> list[dict[str, Any]]:
        return self.kubelet.server.kinds("jobs")

    def pods(self) -> dict[str, dict[str, Any]]:
        """The pod's spec of each step, and of the pod that starts them under ''."""
        return {
            job["metadata"]["labels"].get("step_name", ""): job["spec"]["template"]["spec"]
            for job in self.jobs
        }


@pytest.fixture(scope="module")
def cluster(
    servers: tuple[ZenMLServer, MLflowServer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    found = packages("kubernetes")
    from .kubelet import Kubelet

    folder = tmp_path_factory.mktemp("cluster")
    kubeconfig = folder / "kubeconfig"
    machine = {"KUBECONFIG": str(kubeconfig), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    kubelet = Kubelet(folder / "pods", machine)
    entry = {"cluster": "here", "user": "someone", "namespace": "rlhf"}
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "clusters": [{"name": "here", "cluster": {"server": kubelet.server.url}}],
                "users": [{"name": "someone", "user": {"token": "only-for-tests"}}],
                "contexts": [{"name": "here", "context": entry}],
            }
        )
    )
    workplace = Workplace(folder, *servers, found, {"KUBECONFIG": str(kubeconfig)})
    kubelet.server.start()
    try:
        hidden = {"HF_TOKEN": base64.b64encode(SECRET.encode()).decode()}
        secret = {"metadata": {"name": "rlhf-secrets", "namespace": "rlhf"}, "data": hidden}
        kubelet.server.create(f"{NAMESPACE}/secrets", secret)
        workplace.register("kubernetes", {"orchestrator": {"kubernetes_context": "here"}})
        yield Cluster(kubelet, workplace)
    finally:
        kubelet.stop()


@pytest.fixture(scope="module")
def finished(cluster: Cluster) -> Cluster:
    """The cluster after a run from ingestion to promotion."""
    run = cluster.workplace.rlhf(
        "run",
        str(TINY),
        "--keep-stack",
        "profile=kubernetes",
        f"feedback.ledger.url={cluster.workplace.folder}/ledger",
        "settings.orchestrator.kubernetes.max_parallelism=2",
        "settings.orchestrator.kubernetes.job_monitoring_interval=1",
    )
    outputs = "\n\n".join(
        f"{job['metadata']['name']}\n{cluster.kubelet.output(job['metadata']['name'])[-3000:]}"
        for job in cluster.jobs
    )
    assert run.returncode == 0, f"{run.stdout[-4000:]}{run.stderr[-4000:]}\n{outputs}"
    return cluster


def test_every_step_ran_in_a_pod_of_its_own_and_the_policy_was_promoted(finished: Cluster) -> None:
    assert set(finished.pods()) == {"", *GPU_STEPS, *CPU_STEPS}
    assert len(finished.jobs) == 12
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=finished.workplace.mlflow.url)
    source = client.get_model_version_by_alias("policy", "champion").source
    assert source is not None
    assert Path(source.removeprefix("file://"), "model.safetensors").is_file()
    for pod in finished.pods().values():
        assert [container["image"] for container in pod["containers"]] == [IMAGE]


def test_the_steps_run_the_images_code_and_no_copy_that_was_uploaded(finished: Cluster) -> None:
    folders = list((finished.workplace.folder / "pods").iterdir())
    assert len(folders) == len(finished.jobs)
    assert not [folder for folder in folders if (folder / "app" / "code").exists()]


def test_the_steps_that_train_ask_for_a_gpu_its_nodes_and_shared_memory(finished: Cluster) -> None:
    for step in GPU_STEPS:
        pod = finished.pods()[step]
        [container] = pod["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert pod["nodeSelector"] == {"rlhf-pool": "gpu"}
        assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
        assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}} in pod["volumes"]
        assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]


def test_the_other_steps_stay_on_cpu_nodes(finished: Cluster) -> None:
    for step in CPU_STEPS | {""}:
        pod = finished.pods()[step]
        [container] = pod["containers"]
        assert "nvidia.com/gpu" not in container["resources"].get("limits", {})
        assert pod["nodeSelector"] == {"rlhf-pool": "cpu"}
        assert not pod.get("tolerations")


def test_every_pod_is_unprivileged_with_a_pull_secret_and_the_account_it_needs(finished: Cluster) -> None:
    for step, pod in finished.pods().items():
        [container] = pod["containers"]
        assert pod["imagePullSecrets"] == [{"name": "rlhf-registry"}]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 1000
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert pod["serviceAccountName"] == ("rlhf-steps" if step else "rlhf")
        assert pod["terminationGracePeriodSeconds"] == 90


def test_secrets_reach_the_steps_by_reference_and_stand_nowhere_else(finished: Cluster) -> None:
    for job in finished.jobs:
        [container] = job["spec"]["template"]["spec"]["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "rlhf-secrets"}}]
        variables = {entry["name"]: entry for entry in container["env"]}
        token = variables["ZENML_STORE_API_TOKEN"]
        assert "value" not in token
        assert token["valueFrom"]["secretKeyRef"]["name"].startswith("zenml-token-")
        assert finished.kubelet.environments[job["metadata"]["name"]]["HF_TOKEN"] == SECRET
        assert SECRET not in str(job)
    for folder in (finished.workplace.folder, finished.workplace.server.folder):
        for file in folder.rglob("*"):
            if file.is_file():
                assert SECRET.encode() not in file.read_bytes(), file


def test_kubernetes_own_classes_take_every_manifest(finished: Cluster) -> None:
    assert finished.kubelet.server.unknown == []


def test_a_schedule_becomes_a_cron_job_that_never_overlaps(finished: Cluster) -> None:
    config = yaml.safe_load(TINY.read_text())
    file = finished.workplace.folder / "scheduled.yaml"
    file.write_text(yaml.safe_dump({**config, "profile": "kubernetes"}))
    asked = finished.workplace.rlhf(
        "retrain",
        str(file),
        "--keep-stack",
        f"feedback.ledger.url={finished.workplace.folder}/ledger",
        "schedule.cron_expression=0 3 * * 1",
    )
    assert asked.returncode == 0, asked.stdout + asked.stderr
    [cron] = finished.kubelet.server.kinds("cronjobs")
    assert cron["spec"]["schedule"] == "0 3 * * 1"
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    pod = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "rlhf"
    assert pod["containers"][0]["image"] == IMAGE
    assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "rlhf-secrets"}}]
    assert "zenml pipeline schedule list" in asked.stdout
