"""A training job as Kubeflow Trainer takes it: ``TrainJob`` of ``trainer.kubeflow.org/v1alpha1``."""

from collections.abc import Sequence

import yaml


def trainjob(
    name: str,
    job: str,
    *,
    machines: int,
    image: str,
    gpus: int = 0,
    cpus: int = 4,
    memory: str = "16Gi",
    secret: str | None = None,
    variables: Sequence[str] = (),
    runtime: str = "torch-distributed",
) -> str:
    """A manifest that runs ``rlhf job run`` on every machine.

    Args:
        job: URL of the job's file in the artifact store.
        machines: pods; each starts the job's ``processes``.
        image: what runs, with this project installed.
        gpus, cpus, memory: of each machine.
        secret: name of the Secret whose entries become environment variables: access to the ZenML server and
            the artifact store.
        variables: the entries' names, which are the variables' as well.
        runtime: a ClusterTrainingRuntime of framework torch: it tells each pod of the others.
    """
    amounts = {"cpu": str(cpus), "memory": memory, **({"nvidia.com/gpu": str(gpus)} if gpus else {})}
    environment: list[dict[str, object]] = [{"name": "RLHF_HOME", "value": "/tmp/rlhf"}]
    environment += [
        {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": variable}}}
        for variable in variables
    ]
    manifest = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name},
        "spec": {
            "runtimeRef": {"name": runtime},
            "trainer": {
                "image": image,
                "command": ["rlhf", "job", "run", job],
                "numNodes": machines,
                "resourcesPerNode": {"requests": amounts, "limits": amounts},
                "env": environment,
            },
        },
    }
    return yaml.safe_dump(manifest, sort_keys=False, width=110)
