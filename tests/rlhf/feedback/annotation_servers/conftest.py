"""Servers of canned answers. The pages are what the real servers gave (argilla-server 2.8.0, Label Studio
1.23.0) for the synthetic records of the integration tests, without the keys."""

import copy
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

HERE = Path(__file__).parent
Answer = tuple[int, Any]


class Canned:
    """``answer(method, path, query)`` gives status and JSON; text is sent as a web page."""

    def __init__(self, answer: Callable[[str, str, dict[str, str]], Answer]) -> None:
        self.answer = answer
        self.asked: list[str] = []
        canned = self

        class Handler(BaseHTTPRequestHandler):
            def _reply(self) -> None:
                split = urlsplit(self.path)
                canned.asked.append(split.path)
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, body = canned.answer(self.command, split.path, dict(parse_qsl(split.query)))
                page = isinstance(body, str)
                content = body.encode() if page else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/html" if page else "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = _reply

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def canned() -> Iterator[Callable[..., Canned]]:
    servers: list[Canned] = []

    def serve(answer: Callable[[str, str, dict[str, str]], Answer]) -> Canned:
        servers.append(Canned(answer))
        threading.Thread(target=servers[-1].server.serve_forever, args=(0.02,), daemon=True).start()
        return servers[-1]

    yield serve
    for server in servers:
        server.server.shutdown()
        server.server.server_close()


class ArgillaPages:
    """The recorded dataset, to be changed by tests."""

    def __init__(self) -> None:
        self.__dict__.update(json.loads((HERE / "argilla_pages.json").read_text()))

    records: list[dict[str, Any]]
    dataset: dict[str, Any]

    def more(self, count: int) -> None:
        """Copies of the last record under ids of their own."""
        for number in range(count):
            record = copy.deepcopy(self.records[-1])
            self.records.append({**record, "id": f"copy-{number}", "external_id": f"copy-{number}"})

    def answer(self, method: str, path: str, query: dict[str, str]) -> Answer:
        base = f"/api/v1/datasets/{self.dataset['id']}"
        whole = vars(self)
        lists = {
            "/api/v1/me/workspaces": "workspaces",
            "/api/v1/me/datasets": "datasets",
            "/api/v1/users": "users",
            f"{base}/fields": "fields",
            f"{base}/questions": "questions",
        }
        if path in lists:
            return 200, {"items": whole[lists[path]]}
        if path == base:
            return 200, self.dataset
        if path == f"{base}/users/progress":
            return 200, whole["progress"]
        if path == f"{base}/records":
            start = int(query["offset"])
            items = self.records[start : start + int(query["limit"])]
            return 200, {"items": items, "total": len(self.records)}
        return 404, {"detail": "Not Found"}


class LabelStudioPages:
    """The recorded project, to be changed by tests."""

    def __init__(self) -> None:
        self.__dict__.update(json.loads((HERE / "label_studio_pages.json").read_text()))
        self.refreshed = 0

    project: dict[str, Any]
    tasks: list[dict[str, Any]]

    def answer(self, method: str, path: str, query: dict[str, str]) -> Answer:
        if path == "/api/token/refresh":
            self.refreshed += 1
            return 200, {"access": f"access-{self.refreshed}"}
        if path == "/api/projects":
            return 200, {"results": [self.project]}
        if path == f"/api/projects/{self.project['id']}":
            return 200, self.project
        if path == "/api/users":
            return 200, vars(self)["users"]
        if path == "/api/tasks":
            found = self.tasks
            for item in json.loads(query["query"])["filters"]["items"]:
                name = item["filter"].removeprefix("filter:tasks:")
                found = [task for task in found if task[name] > item["value"]]
            return 200, {"tasks": found[: int(query["page_size"])], "total": len(found)}
        return 404, {"detail": "Not Found"}


@pytest.fixture
def argilla_pages() -> ArgillaPages:
    return ArgillaPages()


@pytest.fixture
def label_studio_pages() -> LabelStudioPages:
    return LabelStudioPages()


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARGILLA_API_KEY", "s3cr3t")
    monkeypatch.setenv("LABEL_STUDIO_TOKEN", "s3cr3t")
