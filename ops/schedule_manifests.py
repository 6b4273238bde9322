"""Retraining checks on other machines' timetables: a Kubernetes CronJob, a GitHub Actions workflow."""

import shlex
from collections.abc import Sequence
from typing import Any

import yaml

_A_DAY = 86_400


def kubernetes(
    name: str, config: str, overrides: Sequence[str], expression: str, *, image: str, secret: str
) -> str:
    """A CronJob. Never two at a time, and one that was missed begins late, within a day.

    Args:
        image: what runs, with this project installed.
        secret: name of the Secret whose entries become environment variables: access to the ZenML server and
            to what the config names.
    """
    container = {
        "name": "retrain",
        "image": image,
        "command": ["rlhf", "retrain", "--keep-stack", config, *overrides],
        "envFrom": [{"secretRef": {"name": secret}}],
        "env": [{"name": "RLHF_HOME", "value": "/state"}],
        "resources": {"requests": {"cpu": "1", "memory": "4Gi"}, "limits": {"memory": "4Gi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "state", "mountPath": "/state"}],
    }
    pod = {
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000},
        "containers": [container],
        "volumes": [{"name": "state", "emptyDir": {}}],
    }
    return _yaml(
        {
            "apiVersion": "batch/v1",
            "kind": "CronJob",
            "metadata": {"name": f"rlhf-{name}".replace("_", "-")},
            "spec": {
                "schedule": expression,
                "timeZone": "Etc/UTC",
                "concurrencyPolicy": "Forbid",
                "startingDeadlineSeconds": _A_DAY,
                "jobTemplate": {"spec": {"backoffLimit": 0, "template": {"spec": pod}}},
            },
        }
    )


def github(
    name: str, config: str, overrides: Sequence[str], expression: str, *, secrets: Sequence[str]
) -> str:
    """A workflow. GitHub's clock is UTC; runs of one group wait for each other.

    Args:
        secrets: names of repository secrets that become environment variables of the same name.
    """
    steps = [
        {"uses": "actions/checkout@v4"},
        {"uses": "actions/setup-python@v5", "with": {"python-version": "3.11", "cache": "pip"}},
        {"run": "pip install -r requirements.lock && pip install --no-deps -e ."},
        {"run": shlex.join(["rlhf", "retrain", "--keep-stack", config, *overrides])},
    ]
    return _yaml(
        {
            "name": f"rlhf {name}",
            "on": {"schedule": [{"cron": expression}], "workflow_dispatch": None},
            "concurrency": {"group": f"rlhf-{name}", "cancel-in-progress": False},
            "permissions": {"contents": "read"},
            "jobs": {
                "retrain": {
                    "runs-on": "ubuntu-latest",
                    "env": {secret: "${{ secrets." + secret + " }}" for secret in secrets},
                    "steps": steps,
                }
            },
        }
    )


def _yaml(data: dict[str, Any]) -> str:
    return yaml.safe_dump(data, sort_keys=False, width=110)
