"""Server processes of the integration tests: each in a folder of its own, on a free port of the loopback
interface, with its output in a log file, and gone when the test session ends."""

import os
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import httpx

HERE = Path(__file__).resolve().parent
STOP_SECONDS = 15


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def clean_environment() -> dict[str, str]:
    """The variables of this process without those that speak to Python or to the servers: their packages are
    not ours."""
    ours = ("PYTHON", "ARGILLA_", "LABEL_STUDIO_", "DJANGO", "ZENML_", "MLFLOW_", "RLHF_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


class ServerProcess:
    """One process and its log."""

    def __init__(self, name: str, argv: list[str], folder: Path, variables: Mapping[str, str]) -> None:
        self._argv, self._folder = argv, folder
        self._variables = clean_environment() | dict(variables)
        self.log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv, env=self._variables, cwd=self._folder, stdout=log, stderr=subprocess.STDOUT
            )

    def kill(self) -> None:
        """As a machine that fails would: no time to finish anything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def wait_for(self, url: str, seconds: float) -> None:
        """Return when ``url`` answers with success.

        Raises:
            RuntimeError: the process ended, or the time is over; the end of its log is in the message.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                if httpx.get(url, timeout=2).is_success:
                    return
            except httpx.TransportError:
                pass
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                raise RuntimeError(f"{url} did not come up: {self.log.read_text()[-2000:]}")
            time.sleep(0.2)
