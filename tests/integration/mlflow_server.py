"""A real `mlflow server` on loopback."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

PATIENCE_SECONDS = 90


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class MLflowServer:
    """A server that keeps its database and run artifacts in a local folder."""

    folder: Path
    port: int
    variables: Mapping[str, str] = field(default_factory=dict)
    """Of its environment; may name another database (``MLFLOW_BACKEND_STORE_URI``)."""
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        variables = {
            **os.environ,
            "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{self.folder}/mlflow.db",
            **self.variables,
        }
        artifacts = (
            "--no-serve-artifacts",
            "--default-artifact-root",
            (self.folder / "artifacts").as_uri(),
        )
        address = ("--host", "127.0.0.1", "--port", str(self.port))
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", "--workers", "1", *address, *artifacts],
                stdout=log, stderr=log, env=variables, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=2).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.3)
        raise TimeoutError((self.folder / "log").read_text())

    def stop(self) -> None:
        """End it, as a crash would: requests are refused from then on."""
        assert self.process is not None
        # the group, since its workers may outlive it; a busy machine makes it slow to end when asked
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
