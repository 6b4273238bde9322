"""A reward behind an HTTP endpoint, asked in batches. The form of requests and answers is in
``docs/rewards.md``."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rlhf.errors import TrainingError
from rlhf.models.chat import Prompt, prompt_text
from rlhf.models.circuit_breaker import CircuitBreaker
from rlhf.models.json_endpoint import JSONEndpoint
from rlhf.models.reward_identity import identity_of
from rlhf.models.reward_protocol import checked_scores, joined_text
from rlhf.models.settings_rewards import HTTPRewardSettings


class HTTPReward:
    """Scores that a server gives.

    What is retried, and how an outage is waited for, is :class:`JSONEndpoint`'s.

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
        self._endpoint = JSONEndpoint(settings, sleep=sleep, breaker=breaker)

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
        return checked_scores(scores, prompts, name=self._endpoint.name)

    def _batch(self, start: int, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Any]:
        body, key = _request(self._settings.protocol, prompts, completions)
        answer = self._endpoint.post(body)
        scores = answer.get(key) if isinstance(answer, Mapping) else None
        if not isinstance(scores, list):
            raise TrainingError(
                f"{self._endpoint.subject} answered without a list '{key}'; it must be a JSON object that "
                "has one."
            )
        if len(scores) != len(prompts):
            raise TrainingError(
                f"{self._endpoint.subject} gave {len(scores)} scores for the {len(prompts)} samples from "
                f"{start} on; return one for each."
            )
        return scores


def _request(
    protocol: str, prompts: Sequence[Prompt], completions: Sequence[str]
) -> tuple[dict[str, Any], str]:
    """Body of a request, and the key of its answer under which the scores are."""
    if protocol == "openrlhf":
        queries = [joined_text(p, c) for p, c in zip(prompts, completions, strict=True)]
        return {"query": queries, "prompts": [prompt_text(p) for p in prompts]}, "rewards"
    plain = [p if isinstance(p, str) else [dict(message) for message in p] for p in prompts]
    return {"prompts": plain, "completions": list(completions)}, "scores"
