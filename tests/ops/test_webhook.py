"""Sentences about signed webhooks."""

import base64
import hmac
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from ops.webhook import Debounced, is_genuine, receiver
from rlhf.errors import ConfigError

SECRET = "0123456789abcdef0123"


def _standard(body: bytes, at: float, secret: bytes = SECRET.encode()) -> dict[str, str]:
    signed = f"msg_1.{int(at)}.".encode() + body
    signature = base64.b64encode(hmac.digest(secret, signed, "sha256")).decode()
    return {
        "Webhook-Id": "msg_1",
        "Webhook-Timestamp": str(int(at)),
        "Webhook-Signature": f"v1a,x v1,{signature}",
    }


def test_the_example_of_the_standard_is_genuine() -> None:
    # https://github.com/standard-webhooks/standard-webhooks, libraries/python/tests
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    key = base64.b64decode(secret[6:])
    headers = _standard(body, 1614265330, key) | {"Webhook-Id": "msg_p5jXN8AQM9LWM0D4loKWxJek"}
    headers["Webhook-Signature"] = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert is_genuine(secret, headers, body, 1614265330.0)
    assert not is_genuine(secret, headers, body, 1614265330.0 + 301)


def test_a_changed_body_or_another_secret_is_not_genuine() -> None:
    body, now = b"{}", 1000.0
    assert is_genuine(SECRET, _standard(body, now), body, now)
    assert not is_genuine(SECRET, _standard(body, now), b"{ }", now)
    assert not is_genuine("another-secret-of-20", _standard(body, now), body, now)
    assert not is_genuine(SECRET, {}, body, now)


def test_a_plain_hmac_over_the_body_is_genuine() -> None:
    body = b"new feedback"
    headers = {"X-Hub-Signature-256": "sha256=" + hmac.new(SECRET.encode(), body, "sha256").hexdigest()}
    assert is_genuine(SECRET, headers, body, 0.0)
    assert not is_genuine(SECRET, headers, body + b"!", 0.0)


@pytest.fixture
def post() -> Iterator[Callable[[bytes, dict[str, str]], int]]:
    calls = threading.Semaphore(0)
    server = receiver(0, SECRET, calls.release, frozenset({"response.updated"}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def send(body: bytes, headers: dict[str, str]) -> int:
        url = f"http://127.0.0.1:{server.server_port}/"
        request = urllib.request.Request(url, body, headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    send.calls = calls  # type: ignore[attr-defined]
    yield send
    server.shutdown()
    server.server_close()
    thread.join()


def test_only_signed_events_of_the_wanted_kind_count(post: Callable[[bytes, dict[str, str]], int]) -> None:
    wanted, other = (json.dumps({"type": f"response.{what}"}).encode() for what in ("updated", "deleted"))
    now = time.time()
    assert post(wanted, _standard(wanted, now)) == 202
    assert post(other, _standard(other, now)) == 202
    assert post(wanted, {}) == 401
    calls: threading.Semaphore = post.calls  # type: ignore[attr-defined]
    assert calls.acquire(timeout=1)
    assert not calls.acquire(blocking=False)


def test_many_events_are_one_check_once_they_stop() -> None:
    begun: list[float] = []
    check = Debounced(lambda: begun.append(time.monotonic()), quiet=0.3, at_most=60)
    for _ in range(5):
        check.event()
        time.sleep(0.05)
    last = time.monotonic()
    time.sleep(0.8)
    check.close()
    assert len(begun) == 1
    assert begun[0] >= last + 0.2


def test_events_without_pause_do_not_put_a_check_off_for_ever() -> None:
    begun = threading.Event()
    check = Debounced(begun.set, quiet=5, at_most=0.3)
    check.event()
    assert begun.wait(2)
    check.close()


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ConfigError, match="fewer than 16"):
        receiver(0, "short", lambda: None, frozenset())
