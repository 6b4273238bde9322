import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from rlhf.errors import ConfigError, DataError
from rlhf.feedback.annotation_servers.connection import Connection, key_from


class Garbled(httpx.SyncByteStream):
    """An answer that says it is compressed and cannot be unpacked."""

    def __iter__(self) -> Iterator[bytes]:
        yield b"no gzip at all"


def connection(handler: Any, patience: float = 5.0) -> Connection:
    client = httpx.Client(base_url="http://server", transport=httpx.MockTransport(handler))
    return Connection(client, "Server", "KEY", patience=patience)


def test_what_passes_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    faults = [
        httpx.ConnectError("refused"),
        httpx.Response(503),
        httpx.Response(429),
        httpx.ReadTimeout("slow"),
    ]

    def handler(request: httpx.Request) -> httpx.Response:
        if faults:
            fault = faults.pop(0)
            if isinstance(fault, Exception):
                raise fault
            return fault
        return httpx.Response(200, json={"n": 1})

    assert connection(handler).get("/x", doing="reading") == {"n": 1}


def test_an_answer_that_was_cut_short_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    headers = {"Content-Type": "application/json"}
    answers = [
        httpx.Response(200, headers=headers, content=b'{"n": [1, 2'),
        httpx.Response(200, headers={**headers, "Content-Encoding": "gzip"}, stream=Garbled()),
        httpx.Response(200, json={"n": 1}),
    ]
    assert connection(lambda request: answers.pop(0)).get("/x", doing="reading") == {"n": 1}


def test_patience_ends_in_an_error_that_says_while_doing_what() -> None:
    begun = time.monotonic()
    with pytest.raises(DataError, match=r"Server does not answer \(status 503\) while reading page 3"):
        connection(lambda request: httpx.Response(503), patience=0.3).get("/x", doing="reading page 3")
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (httpx.Response(401), "does not accept the key in KEY while reading"),
        (httpx.Response(403), "The key in KEY does not allow reading on Server"),
        (httpx.Response(404), "has nothing under /x while reading"),
        (httpx.Response(422, text="bad"), r"refuses reading \(status 422: bad\)"),
        (httpx.Response(200, html="<html>Sign in</html>"), "something else than JSON"),
        (httpx.Response(302, headers={"Location": "/login"}), "something else than JSON"),
    ],
)
def test_what_does_not_pass_is_explained_at_once(response: httpx.Response, said: str) -> None:
    with pytest.raises(DataError, match=said):
        connection(lambda request: response).get("/x", doing="reading")


def test_a_missing_key_is_asked_for_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "  ")
    with pytest.raises(ConfigError, match="needs a key in the environment variable KEY"):
        key_from("KEY", "Server")
