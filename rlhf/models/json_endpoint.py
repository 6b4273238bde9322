"""JSON over HTTP to an endpoint that may be away for a while: retries with backoff, and a circuit breaker."""

import logging
import os
import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from rlhf.errors import ConfigError, TrainingError
from rlhf.models.circuit_breaker import CircuitBreaker
from rlhf.models.endpoints import is_loopback
from rlhf.models.settings_rewards import EndpointSettings

logger = logging.getLogger(__name__)
# It tells every request at the level of information, thousands in a run.
logging.getLogger("httpx").setLevel(logging.WARNING)

_EXCERPT = 200
"""Characters of a refusal that an error message shows."""
_TOO_MANY_REQUESTS = 429
_SERVER_ERROR = 500
_POLL_SECONDS = 1.0
"""Longest sleep of a request that waits for an outage to end, or for the trial of another."""


class JSONEndpoint:
    """An endpoint that takes JSON by POST and answers with JSON; safe among threads.

    Connection errors, time-outs, 429 and 5xx are retried with exponential backoff and full jitter, or after
    the time that the server names. A breaker shared by all requests stops them when the server fails again
    and again: they wait, one of them tries now and then, and they go on when the server is back. Any other
    answer is an error at once.

    Args:
        sleep: waits for some seconds.
        breaker: one of its own by default.

    Raises:
        ConfigError: the variable of the API key is not set.
    """

    def __init__(
        self,
        settings: EndpointSettings,
        *,
        sleep: Callable[[float], None] = time.sleep,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        self._settings = settings
        self.name = f"the endpoint {settings.url}"
        self._sleep = sleep
        self._breaker = breaker or CircuitBreaker(settings.breaker_failures, settings.breaker_cooldown)
        # Not the global generator, whose state belongs to training and is part of its checkpoints.
        self._random = random.Random()
        self._client = httpx.Client(
            headers=_authorization(settings.api_key_variable),
            timeout=settings.timeout,
            limits=httpx.Limits(max_connections=settings.concurrency),
            # A proxy for the outside world has no way to this machine.
            trust_env=not is_loopback(urlsplit(settings.url).hostname or ""),
        )

    @property
    def subject(self) -> str:
        """Its name as a sentence begins with it."""
        return f"{self.name[:1].upper()}{self.name[1:]}"

    def post(self, body: Mapping[str, Any]) -> Any:
        """The JSON of the answer, after as many attempts as it takes.

        Raises:
            TrainingError: no answer could be had, or an outage was longer than ``longest_outage``.
        """
        attempt = 0
        while True:
            permit = self._breaker.permit()
            if permit is None:
                self._wait_for_a_trial()
                attempt = 0  # what failed in an outage says nothing about this request
                continue
            response, fault = self._attempt(body, permit)
            if response is not None and not _retryable(response):
                return self._content(response)
            asked = _retry_after(response) if response is not None else None
            if asked is not None and asked > self._settings.longest_wait:
                raise TrainingError(
                    f"{self.subject} asks to wait {asked:.0f} s ({fault}), more than longest_wait "
                    f"{self._settings.longest_wait:g} s; try later or raise it."
                )
            if self._breaker.state == "open":
                logger.warning("%s: %s; it is left alone for a while.", self.subject, fault)
                continue
            if attempt == self._settings.retries:
                raise TrainingError(
                    f"{self.subject} failed {attempt + 1} times, at last with {fault}; see its log, or "
                    "raise retries or timeout."
                )
            wait = self._jittered(attempt) if asked is None else asked
            logger.warning("%s: %s; trying again in %.1f s.", self.subject, fault, wait)
            self._sleep(wait)
            attempt += 1

    def _wait_for_a_trial(self) -> None:
        """Sleep a little while the breaker lets nothing through.

        Raises:
            TrainingError: a trial has failed later than ``longest_outage`` after the first failure.
        """
        outage = self._breaker.outage
        if self._breaker.state == "open" and outage >= self._settings.longest_outage:
            raise TrainingError(
                f"{self.subject} has not answered for {outage:.0f} s, and longest_outage is "
                f"{self._settings.longest_outage:g} s; see its log, or raise longest_outage."
            )
        self._sleep(min(self._breaker.pause or _POLL_SECONDS, _POLL_SECONDS))

    def _attempt(self, body: Mapping[str, Any], permit: int) -> tuple[httpx.Response | None, str]:
        """One attempt: the response, if there was one, and what was wrong."""
        answered = False
        try:
            response = self._client.post(self._settings.url, json=body)
            # A server that asks for patience is in good health.
            answered = response.status_code < _SERVER_ERROR
            return response, f"status {response.status_code}"
        except httpx.RequestError as error:
            return None, f"{type(error).__name__}: {error}".rstrip(": ")
        finally:
            (self._breaker.succeeded if answered else self._breaker.failed)(permit)

    def _content(self, response: httpx.Response) -> Any:
        if not response.is_success:
            raise TrainingError(
                f"{self.subject} refuses the request with status {response.status_code} "
                f"({response.text[:_EXCERPT].strip()}); check the settings, above all url and key."
            )
        try:
            return response.json()
        except ValueError as error:
            raise TrainingError(
                f"{self.subject} answered with something else than JSON ({error}); check url."
            ) from error

    def _jittered(self, attempt: int) -> float:
        # Full jitter: clients that failed together do not come back together.
        return self._random.uniform(
            0.0, min(self._settings.longest_wait, self._settings.backoff * 2.0**attempt)
        )


def _authorization(variable: str | None) -> dict[str, str]:
    if variable is None:
        return {}
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(
            f"The environment variable {variable}, named in api_key_variable, is not set; export the key "
            "under that name."
        )
    return {"Authorization": f"Bearer {key}"}


def _retryable(response: httpx.Response) -> bool:
    return response.status_code == _TOO_MANY_REQUESTS or response.status_code >= _SERVER_ERROR


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds that the server asks to wait (RFC 9110, 10.2.3: a number or a date), None if it does not."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdigit():
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
