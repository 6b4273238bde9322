"""A Kubernetes API server for one machine: it keeps what it is sent, as a cluster would, and says so to
whoever asks. Only the requests that ZenML makes are answered; others get 404, and are recorded.

Every object is also read with the classes of Kubernetes' own client, so that a manifest with a key that a
cluster would not know is found.
"""

import json
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from zenml.integrations.kubernetes.serialization_utils import deserialize_kubernetes_model

Manifest = dict[str, Any]
_KINDS = {
    "cronjobs": ("batch/v1", "CronJob"),
    "jobs": ("batch/v1", "Job"),
    "pods": ("v1", "Pod"),
    "secrets": ("v1", "Secret"),
    "services": ("v1", "Service"),
}


class ApiServer:
    """Objects by their path, and the HTTP server in front of them."""

    def __init__(self, created: Callable[[str, Manifest], None]) -> None:
        """``created`` is told of every new object, with its path."""
        self.objects: dict[str, Manifest] = {}
        self.posted: list[tuple[str, Manifest]] = []
        """Kind and manifest of everything that was created, as it came."""
        self.unknown: list[str] = []
        """Requests that no answer is known to, and manifests that Kubernetes' classes do not take."""
        self.lock = threading.RLock()
        self.logs: dict[str, Callable[[], bytes]] = {}
        """By a pod's path, what it has printed."""
        self._created = created
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def kinds(self, kind: str) -> list[Manifest]:
        """The manifests of a kind (``jobs``), in the order they came."""
        return [manifest for found, manifest in self.posted if found == kind]

    def create(self, folder: str, body: Manifest) -> tuple[int, Manifest]:
        kind = folder.rsplit("/", 1)[-1]
        if kind not in _KINDS:
            self.unknown.append(f"POST {folder}")
            return 404, _status(404, f"no {kind}")
        version, name = _KINDS[kind]
        body = {"apiVersion": version, "kind": name, **body}
        with self.lock:
            self.posted.append((kind, json.loads(json.dumps(body))))
            self._check(body)
            path = f"{folder}/{body['metadata']['name']}"
            if path in self.objects:
                return 409, _status(409, f"{path} already exists")
            body["metadata"].update(uid=str(uuid.uuid4()), creationTimestamp=now())
            self.objects[path] = _with_defaults(body)
        self._created(path, body)
        return 201, body

    def _check(self, body: Manifest) -> None:
        given = _without_nulls(body)
        # the client's class wants both kinds of condition in every rule, the cluster one of them
        given.get("spec", {}).pop("podFailurePolicy", None)
        try:
            deserialize_kubernetes_model(given, f"V1{body['kind']}")
        except (KeyError, ValueError, TypeError, AttributeError, AssertionError) as error:
            self.unknown.append(f"{body['kind']} {body['metadata']['name']}: {error}")

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                """The tests look at what is recorded."""

            def _answer(self, code: int, body: Manifest | bytes) -> None:
                raw = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(code)
                self.send_header(
                    "Content-Type", "text/plain" if isinstance(body, bytes) else "application/json"
                )
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def _body(self) -> Manifest:
                length = int(self.headers.get("Content-Length") or 0)
                return json.loads(self.rfile.read(length) or b"{}")

            def do_GET(self) -> None:
                target = urlsplit(self.path)
                path = target.path.rstrip("/")
                with server.lock:
                    if path in server.objects:
                        return self._answer(200, server.objects[path])
                    pod, _, last = path.rpartition("/")
                    if last == "log" and pod in server.logs:
                        return self._answer(200, server.logs[pod]())
                    if last in _KINDS:
                        version, kind = _KINDS[last]
                        items = [
                            found
                            for at, found in server.objects.items()
                            if at.rsplit("/", 1)[0] == path and _matches(found, parse_qs(target.query))
                        ]
                        listed = {"apiVersion": version, "kind": f"{kind}List", "metadata": {}}
                        return self._answer(200, {**listed, "items": items})
                return self._answer(404, _status(404, f"{path} not found"))

            def do_POST(self) -> None:
                self._answer(*server.create(urlsplit(self.path).path.rstrip("/"), self._body()))

            def do_PATCH(self) -> None:
                path, change = urlsplit(self.path).path.rstrip("/"), self._body()
                with server.lock:
                    if path not in server.objects:
                        return self._answer(404, _status(404, f"{path} not found"))
                    _merge(server.objects[path], change)
                    return self._answer(200, server.objects[path])

            def do_DELETE(self) -> None:
                self._body()
                path = urlsplit(self.path).path.rstrip("/")
                with server.lock:
                    gone = server.objects.pop(path, None)
                code = 404 if gone is None else 200
                self._answer(code, _status(code, path))

        return Handler


def now() -> str:
    """As Kubernetes writes it."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _without_nulls(node: Any) -> Any:
    """As a cluster reads it: what is null is not there."""
    if isinstance(node, dict):
        return {key: _without_nulls(value) for key, value in node.items() if value is not None}
    return [_without_nulls(value) for value in node] if isinstance(node, list) else node


def _status(code: int, message: str) -> Manifest:
    reason = {200: "Success", 404: "NotFound", 409: "AlreadyExists"}[code]
    return {"kind": "Status", "apiVersion": "v1", "code": code, "reason": reason, "message": message}


def _with_defaults(body: Manifest) -> Manifest:
    """What a cluster fills in and its client insists on."""
    body.setdefault("status", {})
    for rule in ((body.get("spec") or {}).get("podFailurePolicy") or {}).get("rules", []):
        for condition in rule.get("onPodConditions") or []:
            condition.setdefault("status", "True")
    return body


def _matches(found: Manifest, query: dict[str, list[str]]) -> bool:
    labels = found["metadata"].get("labels") or {}
    for term in filter(None, query.get("labelSelector", [""])[0].split(",")):
        name, _, value = term.partition("=")
        if labels.get(name) != value:
            return False
    for term in filter(None, query.get("fieldSelector", [""])[0].split(",")):
        name, _, value = term.partition("=")
        if name == "status.phase" and found.get("status", {}).get("phase") != value:
            return False
    return True


def _merge(target: Manifest, change: Manifest) -> None:
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value
