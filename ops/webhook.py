"""A receiver of signed webhooks on loopback that starts a schedule's retraining check once things are quiet.

Argilla's ``response.updated`` comes with every answer of every annotator: a check begins when none has come
for a while. ZenML's own webhook handlers run inside its server, which a single machine does not have. A
reverse proxy with TLS belongs in front of this one.
"""

import base64
import binascii
import hashlib
import hmac
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from rlhf.errors import ConfigError

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
_MOST_BYTES = 1_000_000
_CLOCK_SECONDS = 300
_READ_SECONDS = 10


def is_genuine(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    """Whether a request was signed with the secret, lately where it says when.

    Two ways: Standard Webhooks as Argilla sends them (``webhook-id``, ``webhook-timestamp``, and
    ``webhook-signature`` with ``v1,`` and base64; a secret ``whsec_…`` is base64), and
    ``X-Hub-Signature-256`` with ``sha256=`` and hex over the body, as GitHub and many others do.
    """
    lower = {name.lower(): value for name, value in headers.items()}
    if "webhook-signature" in lower:
        stamp = lower.get("webhook-timestamp", "")
        if not stamp.isdecimal() or abs(now - int(stamp)) > _CLOCK_SECONDS:
            return False
        signed = f"{lower.get('webhook-id', '')}.{stamp}.".encode() + body
        expected = base64.b64encode(hmac.digest(_key(secret), signed, "sha256")).decode()
        given = [entry.partition(",") for entry in lower["webhook-signature"].split()]
        return any(kind == "v1" and _same(value, expected) for kind, _, value in given)
    expected = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return _same(lower.get("x-hub-signature-256", ""), expected)


def _key(secret: str) -> bytes:
    if not secret.startswith("whsec_"):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error as error:
        raise ConfigError("The webhook's secret begins with whsec_, and the rest is not base64.") from error


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())


class Debounced:
    """Calls an action once events have stopped for a while, or have gone on for too long."""

    def __init__(self, action: Callable[[], object], *, quiet: float, at_most: float) -> None:
        """
        Args:
            quiet: seconds without an event before the action.
            at_most: seconds from the first event after which the action no longer waits.
        """
        self._action, self._quiet, self._at_most = action, quiet, at_most
        self._changed = threading.Condition()
        self._first: float | None = None
        self._last = 0.0
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="retraining-checks", daemon=True)
        self._worker.start()

    def event(self) -> None:
        """Something came in."""
        with self._changed:
            self._last = time.monotonic()
            self._first = self._last if self._first is None else self._first
            self._changed.notify()

    def close(self) -> None:
        """Take no more events; an action that has begun ends first."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._worker.join()

    def _work(self) -> None:
        while self._wait():
            try:
                self._action()
            except (OSError, RuntimeError, ConfigError) as error:
                logger.error("The retraining check did not begin: %s", error)

    def _wait(self) -> bool:
        """Sleep until an action is due; False once closed. Events during an action call for another one."""
        with self._changed:
            while not self._closed:
                if self._first is None:
                    self._changed.wait()
                    continue
                due = min(self._last + self._quiet, self._first + self._at_most)
                if (left := due - time.monotonic()) <= 0:
                    self._first = None
                    return True
                self._changed.wait(left)
        return False


def receiver(
    port: int, secret: str, event: Callable[[], None], events: frozenset[str]
) -> ThreadingHTTPServer:
    """A server, bound to loopback, that reports genuine events.

    Args:
        events: values of the body's ``type`` that count; a body without one always does.

    Raises:
        ConfigError: the secret is too short, or the port is taken.
    """
    if len(secret) < 16:
        raise ConfigError("The webhook's secret has fewer than 16 characters; take a random one.")
    _key(secret)

    class Handler(BaseHTTPRequestHandler):
        timeout = _READ_SECONDS

        def do_POST(self) -> None:
            length = self.headers.get("content-length", "")
            if not length.isdecimal() or int(length) > _MOST_BYTES:
                self.send_error(413 if length.isdecimal() else 411)
                return
            body = self.rfile.read(int(length))
            if not is_genuine(secret, dict(self.headers.items()), body, time.time()):
                self.send_error(401)
                return
            kind = _type_of(body)
            if kind is None or kind in events:
                event()
            self.send_response(202)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            logger.info(format, *args)

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise ConfigError(f"Port {port} is in use; choose another one with --port.") from error


def _type_of(body: bytes) -> str | None:
    try:
        said = json.loads(body)
    except ValueError:
        return None
    kind = said.get("type") if isinstance(said, dict) else None
    return kind if isinstance(kind, str) else None
