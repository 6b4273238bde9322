"""The part of Kubeflow Pipelines' API that submitting a run needs; it keeps the pipelines that it is sent."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_ID = "00000000-0000-0000-0000-000000000001"


class PipelinesApi:
    """Takes runs and recurring runs, and says of every run that it has succeeded."""

    def __init__(self) -> None:
        self.runs: list[dict[str, Any]] = []
        self.recurring: list[dict[str, Any]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                """The tests look at what is recorded."""

            def _answer(self, body: dict[str, Any]) -> None:
                raw = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def do_GET(self) -> None:
                named = {"experiment_id": _ID, "display_name": "rlhf_pipeline", "namespace": ""}
                if "/experiments" in self.path:
                    return self._answer({"experiments": [named], **named})
                return self._answer({"run_id": _ID, "state": "SUCCEEDED"})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if "recurringruns" in self.path:
                    api.recurring.append(body)
                    return self._answer({"recurring_run_id": _ID})
                if self.path.split("?")[0].endswith("/runs"):
                    api.runs.append(body)
                return self._answer({"run_id": _ID, "experiment_id": _ID, **body})

        return Handler
