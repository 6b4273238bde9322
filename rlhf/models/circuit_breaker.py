"""A circuit breaker: after enough failures in a row nothing more is sent to an endpoint, until one trial
after a pause shows that it answers again (Nygard 2007, *Release It!*, section 5.2)."""

import threading
import time
from collections.abc import Callable
from typing import Literal

State = Literal["closed", "open", "half-open"]


class CircuitBreaker:
    """Closed (all may try), open (nobody may) and half-open (one trial is under way); safe among threads.

    Every attempt takes a permit and reports how it went with it. Reports of attempts that began before the
    last change of state are ignored: they say nothing about the endpoint as it is now.

    Args:
        failures: consecutive failures that open it.
        cooldown: seconds from opening to the trial.
        clock: monotonic seconds.
    """

    def __init__(
        self, failures: int, cooldown: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit, self._cooldown, self._clock = failures, cooldown, clock
        self._lock = threading.Lock()
        self._state: State = "closed"
        self._failures = 0
        self._reopens_at = 0.0
        self._failing_since: float | None = None
        self._outage = 0.0
        self._period = 0

    @property
    def state(self) -> State:
        """Where it stands; an open one turns half-open by the next permit, not by time alone."""
        return self._state

    @property
    def outage(self) -> float:
        """Seconds from the first to the last of the failures that no success has followed."""
        return self._outage

    @property
    def pause(self) -> float:
        """Seconds until an open one gives the permit of a trial; 0 while it is not open."""
        with self._lock:
            return max(0.0, self._reopens_at - self._clock()) if self._state == "open" else 0.0

    def permit(self) -> int | None:
        """A permit for one attempt, or None while nobody may try."""
        with self._lock:
            if self._state == "open" and self._clock() >= self._reopens_at:
                self._turn("half-open")
                return self._period
            return self._period if self._state == "closed" else None

    def succeeded(self, permit: int) -> None:
        """Report that the endpoint answered."""
        with self._lock:
            if permit == self._period:
                self._failures = 0
                self._failing_since, self._outage = None, 0.0
                if self._state == "half-open":
                    self._turn("closed")

    def failed(self, permit: int) -> None:
        """Report that it did not."""
        with self._lock:
            if permit != self._period:
                return
            self._failures += 1
            now = self._clock()
            if self._failing_since is None:
                self._failing_since = now
            self._outage = now - self._failing_since
            if self._state == "half-open" or self._failures >= self._limit:
                self._failures = 0
                self._reopens_at = now + self._cooldown
                self._turn("open")

    def _turn(self, state: State) -> None:
        self._state = state
        self._period += 1
