"""A platform of real servers for the session: ZenML with a login, MLflow on PostgreSQL, an object store."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from ops import environment
from tests.integration.mlflow_server import MLflowServer, free_port
from tests.integration.object_store.conftest import _object_store, bucket  # noqa: F401
from tests.integration.platform.servers import PostgreSQL, ZenMLServer, postgresql_programs


def packages(of: str) -> Path:
    """What `make test-integration` has installed for the tests alone."""
    folder = os.environ.get("ANNOTATION_SERVERS", ".")
    found = sorted(Path(folder, of, "lib").glob("python*/site-packages"))
    if not found:
        pytest.fail(f"{of} is not installed: run `make test-integration`", pytrace=False)
    return found[0].absolute()


@dataclass(frozen=True)
class Platform:
    """The servers, and the environment in which a user of theirs works."""

    zenml: ZenMLServer
    mlflow: MLflowServer
    variables: Mapping[str, str]


@pytest.fixture(scope="session")
def _mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowServer]:
    programs = postgresql_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
    database = PostgreSQL(programs, free_port())
    database.start()
    variables = {"MLFLOW_BACKEND_STORE_URI": database.url, "PYTHONPATH": str(packages("postgresql"))}
    server = MLflowServer(tmp_path_factory.mktemp("mlflow"), free_port(), variables)
    try:
        server.start()
        yield server
        server.stop()
    finally:
        database.stop()


@pytest.fixture(scope="session")
def _zenml(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZenMLServer]:
    server = ZenMLServer(tmp_path_factory.mktemp("zenml"), free_port())
    server.start()
    yield server
    server.stop()


STACK = """
from zenml.client import Client
from zenml.enums import StackComponentType as Kind

client = Client()
def component(kind, flavor, **configuration):
    return str(client.create_stack_component("platform", flavor, kind, configuration).id)
client.create_stack("platform", {{
    Kind.ORCHESTRATOR: component(Kind.ORCHESTRATOR, "local"),
    Kind.ARTIFACT_STORE: component(Kind.ARTIFACT_STORE, "s3", path="s3://bucket/artifacts"),
    Kind.EXPERIMENT_TRACKER: component(
        Kind.EXPERIMENT_TRACKER, "mlflow", tracking_uri="{mlflow}", tracking_token="none"
    ),
    Kind.MODEL_REGISTRY: component(Kind.MODEL_REGISTRY, "mlflow"),
}})
client.activate_stack("platform")
"""


@pytest.fixture
def platform(
    _mlflow: MLflowServer,
    _zenml: ZenMLServer,
    bucket: str,  # noqa: F811
    tmp_path: Path,
) -> Platform:
    """With a stack of the servers active."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ZENML_", "MLFLOW_", "RLHF_"))}
    variables = {
        **kept,
        "RLHF_HOME": str(tmp_path / "home"),
        "PYTHONPATH": os.pathsep.join([str(environment.PROJECT_ROOT), str(packages("s3"))]),
        "ZENML_STORE_URL": _zenml.url,
        "ZENML_STORE_API_KEY": _zenml.api_key(),
    }
    script = "from ops import environment; environment.configure()\n" + STACK.format(mlflow=_mlflow.url)
    subprocess.run(
        [sys.executable, "-c", script], env=variables, cwd=environment.PROJECT_ROOT, check=True, timeout=180
    )
    return Platform(_zenml, _mlflow, variables)
