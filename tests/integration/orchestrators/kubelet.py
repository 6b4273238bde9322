"""Runs the pods of the API server's jobs, each as a process of this machine: with the environment that the
image and the manifest give it and nothing else, secrets looked up by reference, and a state folder each.

What cannot be had without containers is left to the assertions: images, nodes, devices, users and mounts.
"""

import base64
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

from ops.environment import PROJECT_ROOT

from .api_server import ApiServer, Manifest, now

HERE = Path(__file__).resolve().parent
_NO_SECRET = "CreateContainerConfigError"


class Kubelet:
    """Starts a pod for every job and a job for none of the cron jobs."""

    def __init__(self, folder: Path, machine: dict[str, str]) -> None:
        """``machine``: variables that stand for the network, such as where the API server is."""
        self.folder, self._machine = folder, machine
        self.server = ApiServer(self._created)
        self.environments: dict[str, dict[str, str]] = {}
        """By job, the environment that its container had."""
        self._processes: list[subprocess.Popen[bytes]] = []

    def stop(self) -> None:
        """No pod outlives the cluster."""
        for process in self._processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.server.stop()

    def output(self, job: str) -> str:
        """What a job's container has printed."""
        return (self.folder / job / "log").read_text(errors="replace")

    def _created(self, path: str, body: Manifest) -> None:
        if body["kind"] == "Job":
            threading.Thread(target=self._run, args=(path, body), daemon=True).start()

    def _run(self, path: str, job: Manifest) -> None:
        name = job["metadata"]["name"]
        namespace = path.split("/namespaces/")[1].split("/")[0]
        template = job["spec"]["template"]
        [container] = template["spec"]["containers"]
        folder = self.folder / name
        (folder / "state").mkdir(parents=True)
        log = folder / "log"
        log.touch()
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"]}
        pod_name = f"{name}-pod"
        pod: Manifest = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": pod_name,
                "namespace": namespace,
                "creationTimestamp": now(),
                "labels": {**(template["metadata"].get("labels") or {}), "job-name": name},
                "ownerReferences": [{**owner, "controller": True}],
            },
            "spec": template["spec"],
            "status": {"phase": "Running"},
        }
        at = f"/api/v1/namespaces/{namespace}/pods/{pod_name}"
        variables = self._variables(namespace, container)
        if variables is None:
            waiting = {"name": container["name"], "state": {"waiting": {"reason": _NO_SECRET}}}
            status = {"image": "", "imageID": "", "ready": False, "restartCount": 0, **waiting}
            pod["status"] = {"phase": "Pending", "containerStatuses": [status]}
        with self.server.lock:
            self.server.objects[at] = pod
            self.server.logs[at] = log.read_bytes
        if variables is None:
            return
        self.environments[name] = dict(variables)
        command = [*container["command"], *container.get("args", [])]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable if command[0] == "python" else command[0], *command[1:]],
                env=self._process_variables(variables, folder, pod_name),
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)
        status = process.wait()
        with self.server.lock:
            pod["status"] = {"phase": "Failed" if status else "Succeeded"}
            condition = {"type": "Failed" if status else "Complete", "status": "True", "message": str(status)}
            job["status"] = {"conditions": [{**condition, "lastTransitionTime": now()}]}

    def _variables(self, namespace: str, container: Manifest) -> dict[str, str] | None:
        """What the manifest adds to the image's environment; None where a secret is missing."""
        variables: dict[str, str] = {}
        secrets = f"/api/v1/namespaces/{namespace}/secrets"
        for source in container.get("envFrom") or []:
            secret = self.server.objects.get(f"{secrets}/{source['secretRef']['name']}")
            if secret is None:
                return None
            variables.update({key: _decoded(value) for key, value in secret["data"].items()})
        for entry in container.get("env") or []:
            reference = (entry.get("valueFrom") or {}).get("secretKeyRef")
            if reference is None:
                variables[entry["name"]] = entry.get("value") or ""
                continue
            secret = self.server.objects.get(f"{secrets}/{reference['name']}")
            if secret is None:
                return None
            variables[entry["name"]] = _decoded(secret["data"][reference["key"]])
        return variables

    def _process_variables(self, given: dict[str, str], folder: Path, pod: str) -> dict[str, str]:
        inside = {"/app": str(PROJECT_ROOT), "/state": str(folder / "state")}
        image = {
            name: re.sub(r"^/(app|state)\b", lambda found: inside[found[0]], value)
            for name, value in image_environment().items()
        }
        paths = [str(HERE / "pod"), str(PROJECT_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        of_the_pod = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(paths),
            "HOSTNAME": pod,
            "POD_ROOT": str(folder),
        }
        return {**image, **self._machine, **given, **of_the_pod}


def image_environment() -> dict[str, str]:
    """The variables that the Dockerfile sets in its last stage, without the path."""
    text = (PROJECT_ROOT / "Dockerfile").read_text(encoding="utf-8").rsplit("\nFROM ", 1)[1]
    blocks = re.findall(r"^ENV ((?:.*\\\n)*.*)$", text, re.MULTILINE)
    pairs = re.findall(r"(\w+)=(\S*)", " ".join(blocks).replace("\\\n", " "))
    return {name: value for name, value in pairs if name != "PATH" and "$" not in value}


def _decoded(value: str) -> str:
    return base64.b64decode(value).decode()
