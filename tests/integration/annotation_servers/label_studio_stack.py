"""A real, unmodified Label Studio on sqlite, and a personal access token of its owner."""

from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from .processes import ServerProcess, free_port

_EMAIL, _PASSWORD = "owner@example.com", "only-for-tests"
_UP_SECONDS = 240


class LabelStudioStack:
    """``with LabelStudioStack(python, folder) as stack``: ``stack.url`` answers, ``stack.token`` is the
    owner's."""

    token = ""

    def __init__(self, python: Path, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        variables = {
            "LABEL_STUDIO_BASE_DATA_DIR": str(folder),
            "LABEL_STUDIO_USERNAME": _EMAIL,
            "LABEL_STUDIO_PASSWORD": _PASSWORD,
            # Nothing is reported, asked or fetched elsewhere.
            "COLLECT_ANALYTICS": "false",
            "LATEST_VERSION_CHECK": "false",
            "SENTRY_DSN": "",
            "FRONTEND_SENTRY_DSN": "",
        }
        command = python.with_name("label-studio")
        argv = [
            str(command),
            "start",
            "--no-browser",
            "--internal-host",
            "127.0.0.1",
            "--port",
            str(self.port),
        ]
        self.server = ServerProcess("server", argv, folder, variables)

    def __enter__(self) -> Self:
        self.start_server()
        with httpx.Client(base_url=self.url, follow_redirects=True, timeout=60) as browser:
            browser.get("/user/login/")
            form = {
                "email": _EMAIL,
                "password": _PASSWORD,
                "csrfmiddlewaretoken": browser.cookies["csrftoken"],
            }
            browser.post("/user/login/", data=form, headers={"Referer": self.url}).raise_for_status()
            headers = {"X-CSRFToken": browser.cookies["csrftoken"], "Referer": self.url}
            self.token = browser.post("/api/token/", headers=headers).raise_for_status().json()["token"]
        return self

    def start_server(self) -> None:
        """Also after a kill: the database is on disk."""
        self.server.start()
        self.server.wait_for(f"{self.url}/health", _UP_SECONDS)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.server.stop()
