"""Jobs for several machines: what may stand in their files, and how Kubeflow Trainer is given them."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from zenml.integrations.kubernetes.flavors import KubernetesStepOperatorSettings

from ops.cli import main
from ops.environment import PROJECT_ROOT
from ops.training_jobs import TrainingJob, as_yaml, read_job, run_job
from rlhf.errors import ConfigError
from rlhf.tracking import NullSink
from rlhf.training.machines import Machines
from rlhf.training.settings import SFTSettings
from tests.docs.test_snippets import snippets

JOB = {
    "stage": "sft",
    "base_model": "s3://bucket/artifacts/base_model/1",
    "rows": "s3://bucket/artifacts/demonstrations/1",
    "checkpoints": "sft-0123",
    "seed": 3,
    "settings": {"processes": 2, "batch_size": 12, "sharding": "fsdp"},
}


def test_a_job_survives_its_file(tmp_path: Path) -> None:
    job = TrainingJob.model_validate(JOB)
    (tmp_path / "job.yaml").write_text(as_yaml(job))
    assert read_job(str(tmp_path / "job.yaml")) == job
    settings = job.trainer_settings()
    assert isinstance(settings, SFTSettings)
    assert (settings.processes, settings.sharding, settings.epochs) == (2, "fsdp", 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_model": None}, "base_model belongs to sft and reward_model"),
        ({"settings": {"epoch": 1}}, "epoch: Extra inputs are not permitted"),
        ({"checkpoints": "../elsewhere"}, "checkpoints: String should match"),
        ({"stage": "ppo"}, "stage: Input should be 'pretrain', 'sft' or 'reward_model'"),
    ],
)
def test_a_file_that_is_no_job_is_refused_by_the_key(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({**JOB, **change}))
    with pytest.raises(ConfigError, match=message):
        read_job(str(tmp_path / "job.yaml"))


def test_a_job_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no job at"):
        read_job(str(tmp_path / "job.yaml"))


def test_a_batch_that_the_machines_cannot_share_is_refused_before_anything_is_read() -> None:
    with pytest.raises(ConfigError, match="batch_size 12 is not a multiple of the 10 processes"):
        run_job(TrainingJob.model_validate(JOB), Machines(5, 0, "first", 29500), NullSink())


def test_a_train_job_runs_the_job_on_every_machine_with_secrets_by_reference() -> None:
    arguments = [
        "job",
        "render",
        "s3://bucket/job.yaml",
        "--machines",
        "4",
        "--gpus",
        "8",
        "--image",
        "rlhf:1",
    ]
    keys = ["--secret", "rlhf", "--variable", "ZENML_STORE_URL", "--variable", "ZENML_STORE_API_KEY"]
    printed = CliRunner().invoke(main, [*arguments, *keys])
    assert printed.exit_code == 0
    spec = yaml.safe_load(printed.output)["spec"]
    assert spec["runtimeRef"] == {"name": "torch-distributed"}
    trainer = spec["trainer"]
    assert trainer["command"] == ["rlhf", "job", "run", "s3://bucket/job.yaml"]
    assert trainer["numNodes"] == 4
    assert trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == "8"
    referred = {entry["name"]: entry["valueFrom"]["secretKeyRef"] for entry in trainer["env"][1:]}
    assert referred == {
        name: {"name": "rlhf", "key": name} for name in ("ZENML_STORE_URL", "ZENML_STORE_API_KEY")
    }


def test_a_job_on_this_machine_alone_is_not_given_to_pods() -> None:
    printed = CliRunner().invoke(main, ["job", "render", "job.yaml", "--image", "rlhf:1"])
    assert printed.exit_code == 1
    assert "pods cannot read it" in printed.output


def test_the_command_step_of_the_page_runs_a_job_on_several_pods() -> None:
    defined: dict[str, Any] = {}
    exec(snippets(PROJECT_ROOT / "docs" / "multi-gpu.md", "python"), defined)
    configured = defined["train"].configuration
    assert configured.command[:3] == ["rlhf", "job", "run"]
    operated = KubernetesStepOperatorSettings.model_validate(
        configured.settings["step_operator"].model_dump()
    )
    assert operated.pod_count == 4
