"""Requests to an annotation server that either succeed or end in one sentence: what passes is waited out,
what does not is explained, and no answer but a success is ever taken for data."""

import json
import logging
import os
import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from rlhf.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

# A line for each of a thousand pages tells nobody anything.
logging.getLogger("httpx").setLevel(logging.WARNING)

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 10.0
_OVERLOADED = (408, 425, 429, 500, 502, 503, 504)


class Connection:
    """An HTTP client with patience.

    Args:
        client: with base address and, unless ``renew`` sees to it, credentials.
        server: its name for messages, such as ``Argilla at https://…``.
        key_variable: the variable that the credentials came from.
        patience: seconds during which a failing request is repeated.
        renew: called once when the credentials are refused; returns fresh headers.
    """

    def __init__(
        self,
        client: httpx.Client,
        server: str,
        key_variable: str,
        *,
        patience: float,
        renew: Callable[[], Mapping[str, str]] | None = None,
    ) -> None:
        self._client, self.server, self._key_variable = client, server, key_variable
        self._patience, self._renew = patience, renew

    def get(self, path: str, *, doing: str, **params: Any) -> Any:
        """The parsed JSON of a GET; see :meth:`send`. An answer that was cut short is asked for again."""
        return self._patiently("GET", path, doing, lambda answer: answer.json(), params=params)

    def get_dated(self, path: str, *, doing: str, **params: Any) -> tuple[Any, datetime | None]:
        """As :meth:`get`, with the time in UTC at which the server gave its answer, cut to the second; None
        where it does not say."""
        found: tuple[Any, datetime | None] = self._patiently(
            "GET", path, doing, lambda answer: (answer.json(), _time_of(answer)), params=params
        )
        return found

    def send(self, method: str, path: str, *, doing: str, **options: Any) -> httpx.Response:
        """A successful answer. Lost connections, overload and faults of the server are tried again, with
        growing pauses, for as long as patience lasts.

        Args:
            doing: what is being done, as the end of "… while"; it is part of every error.

        Raises:
            DataError: the server stays away, refuses the key, or has nothing under that path.
        """
        response: httpx.Response = self._patiently(method, path, doing, lambda answer: answer, **options)
        return response

    def _patiently(
        self, method: str, path: str, doing: str, read: Callable[[httpx.Response], Any], **options: Any
    ) -> Any:
        deadline = time.monotonic() + self._patience
        pause = _FIRST_PAUSE_SECONDS
        renewed = False
        while True:
            try:
                response = self._client.request(method, path, **options)
                if response.is_success and _is_json(response):
                    return read(response)
            # Besides lost connections: bytes that cannot be unpacked, and JSON that ends early.
            except (httpx.TransportError, httpx.DecodingError, json.JSONDecodeError) as error:
                trouble = str(error) or type(error).__name__
            else:
                if response.status_code == httpx.codes.UNAUTHORIZED and self._renew and not renewed:
                    self._client.headers.update(self._renew())
                    renewed = True
                    continue
                if response.status_code not in _OVERLOADED:
                    raise DataError(self._refusal(response, doing))
                trouble = f"status {response.status_code}"
            if time.monotonic() + pause > deadline:
                raise DataError(
                    f"{self.server} does not answer ({trouble}) while {doing}; nothing of this read is kept: "
                    "see that the server is up and run again."
                )
            logger.info("%s: %s while %s; trying again", self.server, trouble, doing)
            # Readers that a restart has thrown out together must not come back together.
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _refusal(self, response: httpx.Response, doing: str) -> str:
        match response.status_code:
            case httpx.codes.UNAUTHORIZED:
                return (
                    f"{self.server} does not accept the key in {self._key_variable} while {doing}; "
                    "put a valid one there."
                )
            case httpx.codes.FORBIDDEN:
                return (
                    f"The key in {self._key_variable} does not allow {doing} on {self.server}; use an "
                    "owner's or administrator's."
                )
            case httpx.codes.NOT_FOUND:
                return (
                    f"{self.server} has nothing under {response.url.path} while {doing}; "
                    "check what the config names."
                )
        if response.is_success or response.is_redirect:
            return (
                f"{self.server} answers {doing} with something else than JSON; check the `url`, which may "
                "lead to a proxy or a login page."
            )
        return f"{self.server} refuses {doing} (status {response.status_code}: {response.text[:200]})."


def key_from(variable: str, server: str) -> str:
    """The key that an environment variable holds.

    Raises:
        ConfigError: it is not set.
    """
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(f"{server} needs a key in the environment variable {variable}; export it.")
    return key


def _time_of(answer: httpx.Response) -> datetime | None:
    try:
        return parsedate_to_datetime(answer.headers["date"]).astimezone(UTC)
    except (KeyError, ValueError):
        return None


def _is_json(response: httpx.Response) -> bool:
    if response.status_code == httpx.codes.NO_CONTENT:
        return True
    return response.headers.get("content-type", "").split(";")[0].strip().endswith("json")
