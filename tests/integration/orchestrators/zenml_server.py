"""A real ZenML server with accounts, on loopback and sqlite."""

import os
import sys
from pathlib import Path

import httpx

from ops.environment import PROJECT_ROOT
from tests.integration.annotation_servers.processes import ServerProcess, free_port

_UP_SECONDS = 90
_USER = {"username": "default", "password": "only-for-tests"}


class ZenMLServer:
    """The process and, once it is up, the key of a service account."""

    def __init__(self, folder: Path, packages: Path) -> None:
        """``packages``: holds Kubernetes' client, without which a server takes no component of a cluster."""
        self.folder = folder
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.key = ""
        command = [sys.executable, "-m", "uvicorn", "zenml.zen_server.zen_server_api:app"]
        variables = {
            "ZENML_SERVER": "true",
            "ZENML_SERVER_DEPLOYMENT_TYPE": "other",
            "ZENML_SERVER_AUTO_ACTIVATE": "true",
            "ZENML_SERVER_CORS_ALLOW_ORIGINS": self.url,
            "ZENML_DEFAULT_USER_NAME": _USER["username"],
            "ZENML_DEFAULT_USER_PASSWORD": _USER["password"],
            "ZENML_ANALYTICS_OPT_IN": "false",
            "ZENML_CONFIG_PATH": str(folder / "config"),
            "ZENML_LOCAL_STORES_PATH": str(folder / "stores"),
            "ZENML_STORE_TYPE": "sql",
            "ZENML_STORE_URL": f"sqlite:///{folder}/zenml.db",
            "PYTHONPATH": os.pathsep.join([str(packages), str(PROJECT_ROOT)]),
        }
        where = ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
        self._process = ServerProcess("zenml", [*command, *where], folder, variables)

    def start(self) -> None:
        self._process.start()
        self._process.wait_for(f"{self.url}/health", _UP_SECONDS)
        with httpx.Client(base_url=f"{self.url}/api/v1", timeout=30) as http:
            token = http.post("/login", data=_USER).raise_for_status().json()["access_token"]
            http.headers["Authorization"] = f"Bearer {token}"
            account = {"name": "pipelines", "active": True}
            made = http.post("/service_accounts", json=account).raise_for_status().json()
            key = {"name": "tests"}
            keys = f"/service_accounts/{made['id']}/api_keys"
            self.key = http.post(keys, json=key).raise_for_status().json()["body"]["key"]

    def stop(self) -> None:
        self._process.stop()
