"""What ZenML compiles the pipeline to for Kubeflow Pipelines, with the shipped profile and stack."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml

from tests.integration.mlflow_server import MLflowServer
from tests.pipelines.conftest import TINY

from .conftest import IMAGE, Workplace, packages
from .pipelines_api import PipelinesApi
from .zenml_server import ZenMLServer

pytestmark = [pytest.mark.orchestrators, pytest.mark.timeout(200)]

ON_GPUS = {
    "pretrain",
    "train-sft",
    "train-proxy-reward-model",
    "train-selection-reward-model",
    "train-judge-reward-model",
    "train-policy",
    "evaluate-policy",
}
TRAINED_FROM = {
    "train-proxy-reward-model": {"train-sft", "prepare-datasets"},
    "train-policy": {
        "train-sft",
        "train-proxy-reward-model",
        "train-selection-reward-model",
        "prepare-datasets",
    },
}


@pytest.fixture(scope="module")
def api() -> Iterator[PipelinesApi]:
    api = PipelinesApi()
    api.start()
    yield api
    api.stop()


@pytest.fixture(scope="module")
def workplace(
    servers: tuple[ZenMLServer, MLflowServer], api: PipelinesApi, tmp_path_factory: pytest.TempPathFactory
) -> Workplace:
    workplace = Workplace(tmp_path_factory.mktemp("kubeflow"), *servers, packages("kubeflow"))
    workplace.register("kubeflow", {"orchestrator": {"kubeflow_hostname": api.url}})
    return workplace


@pytest.fixture(scope="module")
def compiled(workplace: Workplace) -> dict[str, Any]:
    """The pipeline as it was written for Kubeflow Pipelines."""
    run = workplace.rlhf("run", str(TINY), "--keep-stack", "profile=kubeflow")
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    [file] = (workplace.folder / "home").rglob("kubeflow/*/pipelines/*.yaml")
    found: dict[str, Any] = yaml.safe_load(file.read_text())
    return found


def test_the_dag_is_the_pipelines(compiled: dict[str, Any]) -> None:
    tasks = compiled["root"]["dag"]["tasks"]
    assert len(tasks) == 11
    for name, upstream in TRAINED_FROM.items():
        assert upstream <= set(tasks[name]["dependentTasks"])
    assert compiled["schemaVersion"].startswith("2.")


def test_every_step_is_the_image_with_its_limit_and_zenmls_entry_point(compiled: dict[str, Any]) -> None:
    executors = compiled["deploymentSpec"]["executors"]
    assert len(executors) == 11
    for name, executor in executors.items():
        container = executor["container"]
        assert container["image"] == IMAGE
        assert container["command"] == ["python", "-m", "zenml.entrypoints.entrypoint"]
        limits = container["resources"]
        cpus = float(limits.get("resourceCpuLimit", limits.get("cpuLimit", 0)))
        assert cpus == (1 if name.removeprefix("exec-") in ON_GPUS else 2), name


def test_the_pipeline_reached_the_api_as_compiled(compiled: dict[str, Any], api: PipelinesApi) -> None:
    [run] = api.runs
    assert run["pipeline_spec"] == compiled or run["pipeline_spec"]["pipeline_spec"] == compiled


def test_gpu_steps_are_the_step_operators(compiled: dict[str, Any], workplace: Workplace) -> None:
    with httpx.Client(base_url=f"{workplace.server.url}/api/v1", timeout=30) as http:
        login = http.post("/login", data={"password": workplace.server.key}).raise_for_status().json()
        http.headers["Authorization"] = f"Bearer {login['access_token']}"
        listed = http.get("/pipeline_snapshots", params={"hydrate": "true", "sort_by": "desc:created"})
    snapshot = listed.raise_for_status().json()["items"][0]["metadata"]
    steps = {name: step["config"] for name, step in snapshot["step_configurations"].items()}
    on_gpus = {name for name, config in steps.items() if config["step_operator"]}
    assert {name.replace("_", "-") for name in on_gpus} == ON_GPUS
    [settings] = [
        block for key, block in steps["train_policy"]["settings"].items() if key.startswith("step_operator")
    ]
    assert settings["pod_settings"]["resources"]["limits"]["nvidia.com/gpu"] == "1"
