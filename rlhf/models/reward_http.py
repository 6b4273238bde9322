"""A reward behind an HTTP endpoint: batches, retries, and a circuit breaker. The form of requests and
answers is in ``docs/rewards.md``."""

import logging
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from rlhf.errors import ConfigError, TrainingError
from rlhf.models.chat import Prompt, prompt_text
from rlhf.models.circuit_breaker import CircuitBreaker
from rlhf.models.endpoints import is_loopback
from rlhf.models.reward_identity import identity_of
from rlhf.models.reward_protocol import checked_scores, joined_text
from rlhf.models.settings_rewards import HTTPRewardSettings

logger = logging.getLogger(__name__)
# It tells every request at the level of information, thousands in a run.
logging.getLogger("httpx").setLevel(logging.WARNING)

_EXCERPT = 200
"""Characters of a refusal that an error message shows."""
_TOO_MANY_REQUESTS = 429
_SERVER_ERROR = 500
_POLL_SECONDS = 1.0
"""Longest sleep of a request that waits for an outage to end, or for the trial of another."""


class HTTPReward:
    """Scores that a server gives.

    Connection errors, time-outs, 429 and 5xx are retried with exponential backoff and full jitter, or after
    the time that the server names. A breaker shared by all requests stops them when the server fails again
    and again: they wait, one of them tries now and then, and they go on when the server is back. Any other
    answer is an error at once.

    Args:
        sleep: waits for some seconds.
        breaker: one of its own by default.

    Raises:
        ConfigError: the variable of the API key is not set.
        TrainingError: no score for every sample could be had, or an outage was longer than
            ``longest_outage``.
    """

    def __init__(
        self,
        settings: HTTPRewardSettings,
        *,
        sleep: Callable[[float], None] = time.sleep,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        self._settings = settings
        self._name = f"the endpoint {settings.url}"
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
    def identity(self) -> str:
        """What its scores follow from."""
        return identity_of(self, url=self._settings.url, protocol=self._settings.protocol)

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        size = self._settings.batch_size
        starts = range(0, len(prompts), size)
        with ThreadPoolExecutor(self._settings.concurrency, thread_name_prefix="reward-http") as pool:
            pending = [
                pool.submit(self._batch, at, prompts[at : at + size], completions[at : at + size])
                for at in starts
            ]
            try:
                scores = [score for batch in pending for score in batch.result()]
            except TrainingError:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return checked_scores(scores, prompts, name=self._name)

    def _batch(self, start: int, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Any]:
        body, key = _request(self._settings.protocol, prompts, completions)
        answer = self._post(body)
        scores = answer.get(key) if isinstance(answer, Mapping) else None
        if not isinstance(scores, list):
            raise TrainingError(
                f"{self._subject} answered without a list '{key}'; it must be a JSON object that has one."
            )
        if len(scores) != len(prompts):
            raise TrainingError(
                f"{self._subject} gave {len(scores)} scores for the {len(prompts)} samples from {start} on; "
                "return one for each."
            )
        return scores

    def _post(self, body: Mapping[str, Any]) -> Any:
        """The JSON of the answer, after as many attempts as it takes."""
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
                    f"{self._subject} asks to wait {asked:.0f} s ({fault}), more than longest_wait "
                    f"{self._settings.longest_wait:g} s; try later or raise it."
                )
            if self._breaker.state == "open":
                logger.warning("%s: %s; it is left alone for a while.", self._subject, fault)
                continue
            if attempt == self._settings.retries:
                raise TrainingError(
                    f"{self._subject} failed {attempt + 1} times, at last with {fault}; see its log, or "
                    "raise retries or timeout."
                )
            wait = self._jittered(attempt) if asked is None else asked
            logger.warning("%s: %s; trying again in %.1f s.", self._subject, fault, wait)
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
                f"{self._subject} has not answered for {outage:.0f} s, and longest_outage is "
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
                f"{self._subject} refuses the request with status {response.status_code} "
                f"({response.text[:_EXCERPT].strip()}); check url, protocol and api_key_variable."
            )
        try:
            return response.json()
        except ValueError as error:
            raise TrainingError(
                f"{self._subject} answered with something else than JSON ({error}); check url."
            ) from error

    def _jittered(self, attempt: int) -> float:
        # Full jitter: clients that failed together do not come back together.
        return self._random.uniform(
            0.0, min(self._settings.longest_wait, self._settings.backoff * 2.0**attempt)
        )

    @property
    def _subject(self) -> str:
        return f"{self._name[:1].upper()}{self._name[1:]}"


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


def _request(
    protocol: str, prompts: Sequence[Prompt], completions: Sequence[str]
) -> tuple[dict[str, Any], str]:
    """Body of a request, and the key of its answer under which the scores are."""
    if protocol == "openrlhf":
        queries = [joined_text(p, c) for p, c in zip(prompts, completions, strict=True)]
        return {"query": queries, "prompts": [prompt_text(p) for p in prompts]}, "rewards"
    plain = [p if isinstance(p, str) else [dict(message) for message in p] for p in prompts]
    return {"prompts": plain, "completions": list(completions)}, "scores"


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
