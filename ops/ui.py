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
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType

from rich.console import Console

from ops import environment
from ops.stack import ensure_local_stack
from rlhf.errors import ConfigError

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
_STARTUP_SECONDS = 90


@dataclass(frozen=True)
class Server:
    """A server process to start: its name, address, command and extra environment."""

    name: str
    port: int
    health: str
    command: tuple[str, ...]
    variables: Mapping[str, str]

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"http://{HOST}:{self.port}"


def zenml_server(port: int) -> Server:
    """The ZenML dashboard over the local database: no login, so loopback only and no foreign origins."""
    database = environment.home() / "zenml-stores" / "default_zen_store" / "zenml.db"
    variables = {
        "ZENML_SERVER": "true",
        "ZENML_SERVER_DEPLOYMENT_TYPE": "local",
        "ZENML_SERVER_AUTH_SCHEME": "NO_AUTH",
        "ZENML_SERVER_AUTO_ACTIVATE": "true",
        "ZENML_SERVER_CORS_ALLOW_ORIGINS": f"http://{HOST}:{port}",
        "ZENML_SERVER_ALLOW_LOCAL_FILE_ACCESS": "true",
        "ZENML_STORE_TYPE": "sql",
        "ZENML_STORE_URL": f"sqlite:///{database}",
    }
    command = ("-m", "uvicorn", "zenml.zen_server.zen_server_api:app", "--host", HOST, "--port", str(port))
    return Server("ZenML", port, "/health", (sys.executable, *command, "--log-level", "warning"), variables)


def mlflow_server(port: int) -> Server:
    """The MLflow UI over the local database."""
    uri = f"sqlite:///{environment.mlflow_database()}"
    command = ("-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1")
    stores = ("--backend-store-uri", uri, "--default-artifact-root", environment.mlflow_artifacts().as_uri())
    return Server("MLflow", port, "/health", (sys.executable, *command, *stores), {})


def serve(*, zenml_port: int, mlflow_port: int) -> None:
    """Start both servers, print their addresses and wait until interrupted.

    Raises:
        ConfigError: a port is taken, or a server did not come up.
    """
    ensure_local_stack()
    finish_onboarding()
    servers = [zenml_server(zenml_port), mlflow_server(mlflow_port)]
    for server in servers:
        _require_free_port(server)
    console = Console(highlight=False)
    signal.signal(signal.SIGTERM, _interrupt)
    processes = [start(server) for server in servers]
    try:
        for server, process in zip(servers, processes, strict=True):
            wait_until_healthy(server, process)
            console.print(f"{server.name}: {server.url}")
        console.print("Both listen on this machine only. Stop them with Ctrl-C.")
        while all(process.poll() is None for process in processes):
            time.sleep(0.5)
    except KeyboardInterrupt:
        pass
    finally:
        for process in processes:
            stop(process)


def finish_onboarding() -> None:
    """Mark the local user's survey as done: the dashboard would show it instead of the runs."""
    from zenml.client import Client

    client = Client()
    if not client.active_user.user_metadata.get("finished_onboarding_survey"):
        client.update_user(client.active_user.id, updated_metadata={"finished_onboarding_survey": True})


def start(server: Server) -> subprocess.Popen[bytes]:
    """Start a server in a session of its own, logging to the state folder."""
    logs = environment.home() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / f"{server.name.lower()}-server.log").open("ab") as log:
        return subprocess.Popen(
            server.command,
            env={**os.environ, **server.variables},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and its workers."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until_healthy(server: Server, process: subprocess.Popen[bytes]) -> None:
    """Return when the server answers.

    Raises:
        ConfigError: it ended or did not answer in time; the message names its log.
    """
    deadline = time.monotonic() + _STARTUP_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(server.url + server.health, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    log = environment.home() / "logs" / f"{server.name.lower()}-server.log"
    raise ConfigError(f"The {server.name} server did not come up at {server.url}; see {log}.")


def _require_free_port(server: Server) -> None:
    with socket.socket() as probe:
        if probe.connect_ex((HOST, server.port)) == 0:
            flag = f"--{server.name.lower()}-port"
            raise ConfigError(f"Port {server.port} is in use; choose another one with `rlhf ui {flag} N`.")


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
