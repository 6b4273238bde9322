"""The manifest of a training job, read by Kubeflow Trainer's own models."""

import os
import subprocess
from pathlib import Path

import pytest

from ops.job_manifests import trainjob

pytestmark = pytest.mark.servers

# What the models do not know, they would drop.
CHECK = """
import json, sys, yaml
from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

given = yaml.safe_load(sys.stdin.read())
read = TrainerV1alpha1TrainJob.from_dict(given)
assert read.to_dict() == given, json.dumps(read.to_dict(), indent=1)
print(read.spec.trainer.num_nodes, read.spec.runtime_ref.name)
"""


def test_kubeflow_trainers_models_take_all_of_the_manifest() -> None:
    python = Path(os.environ.get("ANNOTATION_SERVERS", "."), "kubeflow", "bin", "python").absolute()
    if not python.exists():
        pytest.fail("kubeflow is not installed: run `make test-integration`", pytrace=False)
    manifest = trainjob(
        "training", "s3://bucket/job.yaml", machines=4, image="rlhf:1", gpus=8, secret="rlhf",
        variables=["ZENML_STORE_URL"],
    )  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    checked = subprocess.run(
        [str(python), "-c", CHECK], input=manifest, env=kept, capture_output=True, text=True, timeout=60
    )
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.split() == ["4", "torch-distributed"]
