"""A reverse proxy that fails on demand: in front of a real server it is the overloaded one."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

import httpx


class FailingProxy:
    """Forwards to ``upstream``. ``fails(n, path)`` is asked for each request, n from 1 on, and gives the
    status to answer with instead, 0 to drop the connection, or None to forward it."""

    def __init__(self, upstream: str, fails: Callable[[int, str], int | None]) -> None:
        self.requests: list[str] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                proxy.requests.append(self.path)
                status = fails(len(proxy.requests), self.path)
                if status == 0:
                    self.connection.close()
                    return
                if status is not None:
                    self._send(status, b'{"detail": "overloaded"}')
                    return
                length = int(self.headers.get("Content-Length") or 0)
                headers = {
                    name: value
                    for name, value in self.headers.items()
                    if name.lower() not in ("host", "accept-encoding", "connection")
                }
                response = httpx.request(
                    self.command,
                    f"{upstream}{self.path}",
                    content=self.rfile.read(length),
                    headers={**headers, "Accept-Encoding": "identity"},
                    timeout=60,
                )
                self._send(response.status_code, response.content)

            def _send(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _answer

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
