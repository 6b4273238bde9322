"""Real servers of a platform on the loopback interface: PostgreSQL, and ZenML with a login."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

PATIENCE_SECONDS = 90
_ACCOUNT = "postgres"


def postgresql_programs() -> Path | None:
    """Where PostgreSQL's programs are; ``None`` where it is not installed."""
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((place for place in reversed(places) if (place / "postgres").exists()), None)


class PostgreSQL:
    """A database server with a database ``postgres`` and an owner with a password.

    It does not run as root; root runs it as the account that its package made.
    """

    def __init__(self, programs: Path, port: int) -> None:
        self._programs, self._port = programs, port
        self._password = secrets.token_urlsafe()
        self._folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
        self._user = _ACCOUNT if os.getuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For SQLAlchemy."""
        return f"postgresql+psycopg2://owner:{self._password}@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Start it and wait until it answers."""
        secret = self._folder / "password"
        secret.write_text(self._password)
        if self._user:
            account = pwd.getpwnam(self._user)
            for path in (self._folder, secret):
                os.chown(path, account.pw_uid, account.pw_gid)
        data = self._folder / "data"
        self._run("initdb", "-D", str(data), "-U", "owner", "-A", "scram-sha-256", "--pwfile", str(secret))
        self._process = subprocess.Popen(
            [
                str(self._programs / "postgres"), "-D", str(data), "-p", str(self._port),
                "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
            ],
            user=self._user, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + PATIENCE_SECONDS
        ready = [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self._port)]
        while subprocess.run(ready).returncode:
            if time.monotonic() > deadline:
                raise TimeoutError("PostgreSQL did not come up.")
            time.sleep(0.2)

    def stop(self) -> None:
        """End it and remove its data."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # its fast shutdown
            self._process.wait(PATIENCE_SECONDS)
        shutil.rmtree(self._folder)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        subprocess.run(command, user=self._user, cwd=self._folder, check=True, stdout=subprocess.DEVNULL)


@dataclass
class ZenMLServer:
    """A ZenML server with a password for its administrator, on sqlite."""

    folder: Path
    port: int
    password: str = field(default_factory=secrets.token_urlsafe)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("ZENML_", "MLFLOW_", "RLHF_"))}
        variables = {
            **kept,
            "ZENML_CONFIG_PATH": str(self.folder / "config"),
            "ZENML_LOCAL_STORES_PATH": str(self.folder / "stores"),
            "ZENML_STORE_TYPE": "sql",
            "ZENML_STORE_URL": f"sqlite:///{self.folder}/zenml.db",
            "ZENML_SERVER": "true",
            "ZENML_SERVER_AUTH_SCHEME": "OAUTH2_PASSWORD_BEARER",
            "ZENML_SERVER_JWT_SECRET_KEY": self.password[::-1],  # tokens outlive the server
            "ZENML_SERVER_AUTO_ACTIVATE": "true",
            "ZENML_DEFAULT_USER_NAME": "administrator",
            "ZENML_DEFAULT_USER_PASSWORD": self.password,
            "ZENML_ANALYTICS_OPT_IN": "false",
        }
        command = [sys.executable, "-m", "uvicorn", "zenml.zen_server.zen_server_api:app"]
        where = ["--host", "127.0.0.1", "--port", str(self.port), "--log-level", "warning"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([*command, *where], env=variables, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise TimeoutError((self.folder / "log").read_text())
            time.sleep(0.3)

    def stop(self) -> None:
        """End it, as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def api_key(self) -> str:
        """Of a new service account, as pipelines use one."""
        login = {"username": "administrator", "password": self.password}
        with httpx.Client(base_url=f"{self.url}/api/v1", timeout=30) as client:
            token = client.post("/login", data=login).raise_for_status().json()["access_token"]
            client.headers["Authorization"] = f"Bearer {token}"
            account = client.post("/service_accounts", json={"name": "pipelines", "active": True})
            of = account.raise_for_status().json()["id"]
            made = client.post(f"/service_accounts/{of}/api_keys", json={"name": "runs"})
            return str(made.raise_for_status().json()["body"]["key"])

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=2).is_success
        except httpx.TransportError:
            return False
