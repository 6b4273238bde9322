"""ZenML's blocks in a config: what it would drop is refused."""

from typing import Any

import pytest

from ops.zenml_blocks import wrong_blocks, wrong_stack

KUBERNETES = "orchestrator.kubernetes"


def _problems(**config: Any) -> list[str]:
    return [str(problem) for problem in wrong_blocks(config)]


def _on_kubernetes(**settings: Any) -> dict[str, Any]:
    return {"settings": {KUBERNETES: settings}}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            _on_kubernetes(pod_setting={}),
            f"settings.{KUBERNETES}.pod_setting: unknown key, did you mean 'pod_settings'?; ZenML would "
            "drop it",
        ),
        (
            _on_kubernetes(pod_settings={"node_selector": {"pool": "gpu"}}),
            f"settings.{KUBERNETES}.pod_settings.node_selector: unknown key, did you mean 'node_selectors'?; "
            "ZenML would drop it",
        ),
        (
            {"settings": {"dockr": {}}},
            "settings.dockr: no setting of ZenML's, did you mean 'docker'?; they are docker, resources and "
            "type.flavor",
        ),
        (
            {"steps": {"train_sft": {"setings": {}}}},
            "steps.train_sft.setings: unknown key, did you mean 'settings'?",
        ),
        (
            {"steps": {"train_sft": {"settings": {"docker": {"parent_imag": "a"}}}}},
            "steps.train_sft.settings.docker.parent_imag: unknown key, did you mean 'parent_image'?; ZenML "
            "would drop it",
        ),
        (
            {"settings": {"orchestrator.ssh": {"gpu_indices": "all"}}},
            "settings.orchestrator.ssh.gpu_indices: Input should be a valid list",
        ),
        (
            {"settings": {"docker": {"skip_build": True}}},
            "settings.docker: Docker settings that specify `skip_build=True` must always contain a "
            "`parent_image`. This parent image will be used to run the steps of your pipeline directly "
            "without additional Docker builds on top of it.",
        ),
    ],
)
def test_what_zenml_would_drop_or_refuse_is_named(config: dict[str, Any], message: str) -> None:
    assert _problems(**config) == [message]


def test_resources_that_the_kubernetes_orchestrator_ignores_are_refused() -> None:
    steps = {"train_sft": {"settings": {"resources": {"gpu_count": 1}}}}
    [problem] = _problems(**_on_kubernetes(synchronous=False), steps=steps)
    assert problem.startswith("steps.train_sft.settings.resources: the Kubernetes orchestrator ignores it")
    assert _problems(steps=steps) == []


def test_pod_settings_and_memory_that_do_not_reach_kubeflow_are_refused() -> None:
    [problem] = _problems(settings={"orchestrator.kubeflow": {"pod_settings": {"host_ipc": True}}})
    assert "give the step to a step operator" in problem
    memory = {"orchestrator.kubeflow": {}, "resources": {"cpu_count": 2, "memory": "8GiB"}}
    [problem] = _problems(settings=memory)
    assert problem.startswith(
        "settings.resources.memory: ZenML hands it to Kubeflow in a form that kfp refuses"
    )


@pytest.mark.parametrize("name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "password"])
def test_a_secret_that_is_written_out_is_refused_wherever_a_run_would_keep_it(name: str) -> None:
    written = {name: "s3cr3t"}
    entries = [{"name": name, "value": "s3cr3t"}]
    for config in (
        {"environment": written},
        {"steps": {"train_sft": {"environment": written}}},
        {"settings": {"docker": {"parent_image": "a", "environment": written}}},
        _on_kubernetes(pod_settings={"env": entries}),
    ):
        [problem] = _problems(**config)
        assert "give it by reference" in problem
        assert "s3cr3t" not in problem


def test_a_secret_by_reference_and_variables_that_are_none_are_taken() -> None:
    reference = {"secretKeyRef": {"name": "rlhf-secrets", "key": "HF_TOKEN"}}
    env = [{"name": "HF_TOKEN", "valueFrom": reference}, {"name": "TOKENIZERS_PARALLELISM", "value": "false"}]
    assert _problems(**_on_kubernetes(pod_settings={"env": env})) == []


def test_blocks_for_another_stack_are_refused_and_those_for_several_are_not() -> None:
    config = {
        "settings": {KUBERNETES: {}},
        "steps": {"train_sft": {"settings": {"step_operator.kubernetes": {}}}},
    }
    problems = wrong_stack(config, {"orchestrator": ["local"]})
    assert [problem.key for problem in problems] == [
        f"settings.{KUBERNETES}",
        "steps.train_sft.settings.step_operator.kubernetes",
    ]
    assert "has the orchestrator local" in problems[0].message
    assert "has no step_operator" in problems[1].message
    both = {"settings": {KUBERNETES: {}, "orchestrator.ssh": {}, "docker": {}}}
    assert wrong_stack(both, {"orchestrator": ["ssh"]}) == []
