"""Serve the ZenML dashboard and the MLflow UI on loopback, from the local databases.

`zenml login --local` would also point the client at the server it starts, and leave it pointing there when
the server is gone. Here both servers only read the same databases that runs write to.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from rich.console import Console

from ops import environment
from ops.stack import ensure_local_stack
from ops.tracking import TRAINING_PAGES
from rlhf.errors import ConfigError

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
_STARTUP_SECONDS = 90
_SHUTDOWN_SECONDS = 10
_DEFAULT_EXPERIMENT = "0"  # empty, and made by MLflow itself


@dataclass(frozen=True)
class Server:
    """A server process to start: its name, address, command and extra environment."""

    name: str
    port: int
    command: tuple[str, ...]
    page: str
    """Where to begin, after the address."""
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"http://{HOST}:{self.port}"

    @property
    def log(self) -> Path:
        """What the server says."""
        return environment.home() / "logs" / f"{self.name.lower()}-server.log"


def zenml_server(port: int) -> Server:
    """The ZenML dashboard over the client's database: no login, so for browsers of this machine only.

    Raises:
        ConfigError: the client is connected to a server, which has a dashboard of its own.
    """
    from zenml.config.global_config import GlobalConfiguration

    database = GlobalConfiguration().store_configuration.url
    if not database.startswith("sqlite:"):
        raise ConfigError(
            f"ZenML is connected to {database}: open the dashboard there, or unset the ZENML_STORE_ and "
            "ZENML_CONFIG_PATH variables to use the local one."
        )
    variables = {
        "ZENML_SERVER": "true",
        "ZENML_SERVER_DEPLOYMENT_TYPE": "local",
        "ZENML_SERVER_AUTH_SCHEME": "NO_AUTH",
        "ZENML_SERVER_AUTO_ACTIVATE": "true",
        # Left out, ZenML would let every website read with the user's credentials.
        "ZENML_SERVER_CORS_ALLOW_ORIGINS": f"http://{HOST}:{port}",
        "ZENML_SERVER_ALLOW_LOCAL_FILE_ACCESS": "true",
        "ZENML_STORE_TYPE": "sql",
        "ZENML_STORE_URL": database,
    }
    command = (sys.executable, "-m", "uvicorn", "ops.dashboard:app", "--host", HOST, "--port", str(port))
    where = ("--app-dir", str(environment.PROJECT_ROOT), "--log-level", "warning")
    return Server("ZenML", port, (*command, *where), "/projects/default/runs", variables)


def mlflow_server(port: int) -> Server:
    """The MLflow UI over the local database."""
    uri = environment.mlflow_uri()
    command = (
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        HOST,
        "--port",
        str(port),
    )
    stores = ("--backend-store-uri", uri, "--default-artifact-root", environment.mlflow_artifacts().as_uri())
    return Server("MLflow", port, (*command, "--workers", "1", *stores), _mlflow_page(uri))


def _mlflow_page(uri: str) -> str:
    """The runs of the newest experiment; the list of experiments before there is one."""
    from mlflow.tracking import MlflowClient

    if environment.mlflow_database().exists():
        found = MlflowClient(tracking_uri=uri).search_experiments(order_by=["creation_time DESC"])
        if experiment := next((e for e in found if e.experiment_id != _DEFAULT_EXPERIMENT), None):
            return f"/#/experiments/{experiment.experiment_id}/runs?{TRAINING_PAGES}"
    return f"/#/experiments?{TRAINING_PAGES}"


def serve(*, zenml_port: int, mlflow_port: int) -> None:
    """Start both servers, print their addresses and wait until interrupted.

    Raises:
        ConfigError: a port is taken, or a server did not come up or ended by itself.
    """
    console = Console(highlight=False)
    # Ctrl-C too: a process that was started in the background has inherited that it is ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        dashboard = zenml_server(
            zenml_port
        )  # refuses a remote ZenML server, before anything is changed there
        prepare()
        with running([dashboard, mlflow_server(mlflow_port)]) as started:
            for server, _ in started:
                console.print(f"{server.name}: {server.url}{server.page}", soft_wrap=True)
            console.print("Both listen on this machine only. Stop them with Ctrl-C.")
            while True:
                for server, process in started:
                    if process.poll() is not None:
                        raise ConfigError(f"The {server.name} server ended by itself; see {server.log}.")
                time.sleep(0.5)
    except KeyboardInterrupt:
        console.print("Stopped.")


def prepare() -> None:
    """Register the local stack, and spare the local user the dashboard's survey and product news."""
    from zenml.client import Client

    ensure_local_stack()
    client = Client()
    user = client.active_user
    # The survey comes back as long as either is unset; nobody answers to an address that is not given.
    if not user.user_metadata.get("finished_onboarding_survey") or user.email_opted_in is None:
        client.update_user(
            user.id, updated_email_opt_in=False, updated_metadata={"finished_onboarding_survey": True}
        )
    client.update_server_settings(
        updated_name=client.get_settings().server_name,  # ZenML would write null over what is left out
        updated_enable_analytics=False,
        updated_enable_announcements=False,
        updated_enable_updates=False,
    )


@contextmanager
def running(servers: Sequence[Server]) -> Iterator[list[tuple[Server, subprocess.Popen[bytes]]]]:
    """Servers that answer, each with its process; stopped at the end, whatever happens.

    Raises:
        ConfigError: a port is taken (nothing has been started), or a server did not come up.
    """
    for server in servers:
        _require_free_port(server)
    with ExitStack() as stack:
        started = []
        for server in servers:
            process = _start(server)
            stack.callback(_stop, process)
            started.append((server, process))
        for server, process in started:
            _wait_until_healthy(server, process)
        yield started


def _start(server: Server) -> subprocess.Popen[bytes]:
    server.log.parent.mkdir(parents=True, exist_ok=True)
    with server.log.open("ab") as log:
        # In a session of its own: Ctrl-C reaches this process alone, which stops the server and its workers.
        return subprocess.Popen(
            server.command,
            env={**os.environ, **server.variables},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and its workers."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=_SHUTDOWN_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_until_healthy(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _STARTUP_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(server.url + "/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise ConfigError(f"The {server.name} server did not come up at {server.url}; see {server.log}.")


def _require_free_port(server: Server) -> None:
    with socket.socket() as probe:
        if probe.connect_ex((HOST, server.port)) == 0:
            flag = f"--{server.name.lower()}-port"
            raise ConfigError(f"Port {server.port} is in use; choose another one with `rlhf ui {flag} N`.")


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
