"""From an orchestrator's environment to a machine's place among the others."""

import pytest

from rlhf.errors import ConfigError
from rlhf.training.machines import Machines, machines_of

KUBERNETES = {
    "ZENML_KUBERNETES_POD_COUNT": "4",
    "JOB_COMPLETION_INDEX": "3",
    "ZENML_KUBERNETES_MAIN_ADDRESS": "job-0.job.zenml.svc",
    "ZENML_KUBERNETES_MAIN_PORT": "29500",
}
KUBEFLOW = {
    "PET_NNODES": "2",
    "PET_NPROC_PER_NODE": "8",
    "PET_NODE_RANK": "0",
    "PET_MASTER_ADDR": "training-node-0-0.training",
    "PET_MASTER_PORT": "29400",
}


def test_a_pod_of_zenmls_step_operator_knows_its_index_and_the_first_pod() -> None:
    assert machines_of(KUBERNETES) == Machines(4, 3, "job-0.job.zenml.svc", 29500)


def test_the_step_operator_sets_the_variables_that_are_read() -> None:
    from zenml.integrations.kubernetes import constants

    set_by_zenml = {
        constants.ENV_ZENML_KUBERNETES_POD_COUNT,
        constants.ENV_ZENML_KUBERNETES_MAIN_ADDRESS,
        constants.ENV_ZENML_KUBERNETES_MAIN_PORT,
    }
    assert set_by_zenml == KUBERNETES.keys() - {"JOB_COMPLETION_INDEX"}  # which Kubernetes sets


def test_a_node_of_a_train_job_knows_its_rank_and_the_first_node() -> None:
    assert machines_of(KUBEFLOW) == Machines(2, 0, "training-node-0-0.training", 29400)


@pytest.mark.parametrize("environment", [{}, {"JOB_COMPLETION_INDEX": "5"}, {"PET_NNODES": "1"}])
def test_elsewhere_a_machine_is_the_only_one(environment: dict[str, str]) -> None:
    assert machines_of(environment) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"JOB_COMPLETION_INDEX": ""}, "JOB_COMPLETION_INDEX of ZenML's Kubernetes step operator is not set"),
        ({"JOB_COMPLETION_INDEX": "4"}, "JOB_COMPLETION_INDEX is 4, but ZENML_KUBERNETES_POD_COUNT is 4"),
        ({"ZENML_KUBERNETES_MAIN_PORT": "http"}, "ZENML_KUBERNETES_MAIN_PORT is 'http', not a whole number"),
    ],
)
def test_an_environment_that_contradicts_itself_is_refused(change: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        machines_of({**KUBERNETES, **change})
