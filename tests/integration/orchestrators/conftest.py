"""A cluster on this machine, a ZenML server, an MLflow server, and a client that is connected to them.

`make test-orchestrators` installs the orchestrators' own packages; without them the tests are skipped.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from ops.environment import CONFIGS, PROJECT_ROOT
from tests.integration.annotation_servers.processes import clean_environment, free_port
from tests.integration.mlflow_server import MLflowServer

from .zenml_server import ZenMLServer

IMAGE = "registry.example.com/rlhf:1.0"
_PATIENCE_SECONDS = 280


@dataclass
class Workplace:
    """A machine from which runs are started: a state folder and a ZenML server."""

    folder: Path
    server: ZenMLServer
    mlflow: MLflowServer
    packages: Path
    """Where the orchestrator's packages are."""
    variables: dict[str, str] = field(default_factory=dict)

    def rlhf(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `rlhf` to its end."""
        return self._python("from ops.cli import main; main()", arguments)

    def zenml(self, *arguments: str) -> None:
        """Run `zenml`, which has to end well, as in a shell after `eval "$(rlhf env)"`."""
        program = "from ops import environment; environment.configure(); from zenml_cli import cli; cli()"
        ended = self._python(program, arguments)
        assert ended.returncode == 0, ended.stdout + ended.stderr

    def _python(self, program: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        variables = {
            **clean_environment(),
            "PYTHONPATH": os.pathsep.join([str(self.packages), str(PROJECT_ROOT)]),
            "RLHF_HOME": str(self.folder / "home"),
            "RLHF_IMAGE": IMAGE,
            "ZENML_STORE_URL": self.server.url,
            "ZENML_STORE_API_KEY": self.server.key,
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "",
            **self.variables,
        }
        return subprocess.run(
            [sys.executable, "-c", program, *arguments],
            env=variables,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_SECONDS,
            check=False,
        )

    def register(self, name: str, changes: Mapping[str, Mapping[str, Any]]) -> None:
        """Import the shipped stack of this name with other addresses, and make it the active one."""
        stack = yaml.safe_load((CONFIGS / "stacks" / f"{name}.yaml").read_text())
        artifacts = self.folder / "artifacts"
        artifacts.mkdir()
        store = {"name": name, "flavor": "shared_folder", "configuration": {"path": str(artifacts)}}
        stack["components"]["artifact_store"] = store
        stack["components"]["experiment_tracker"]["configuration"]["tracking_uri"] = self.mlflow.url
        for kind, values in changes.items():
            stack["components"][kind]["configuration"].update(values)
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(stack))
        self.zenml("stack", "import", f"rlhf-{name}", "-f", str(file))
        self.zenml("stack", "set", f"rlhf-{name}")


def packages(name: str) -> Path:
    """The folder into which `make test-orchestrators` installed ``requirements/<name>.lock``."""
    folder = Path(os.environ.get("ORCHESTRATORS", "."), name).absolute()
    if not (folder / ".ready").exists():
        pytest.skip(f"requirements/{name}.lock is not installed: run `make test-orchestrators`")
    return folder


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ZenMLServer, MLflowServer]]:
    zenml = ZenMLServer(tmp_path_factory.mktemp("zenml-server"), packages("kubernetes"))
    mlflow = MLflowServer(tmp_path_factory.mktemp("mlflow-server"), free_port())
    try:
        zenml.start()
        mlflow.start()
        anyone = Workplace(tmp_path_factory.mktemp("anyone"), zenml, mlflow, PROJECT_ROOT)
        flavor = f"{__package__}.shared_folder.SharedFolderFlavor"
        anyone.zenml("artifact-store", "flavor", "register", flavor)
        anyone.zenml("secret", "create", "rlhf-mlflow", "--token=only-for-tests")
        yield zenml, mlflow
    finally:
        zenml.stop()
        if mlflow.process is not None:
            mlflow.stop()
