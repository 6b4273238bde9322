"""SIGTERM, as spot instances and schedulers send it before they take the machine away: training writes a
checkpoint within a grace, anything else ends at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rlhf.errors import InterruptedRunError
from rlhf.training.interruption import request_stop, stop_requested, withdraw_stop_request

Handler = Callable[[int, FrameType | None], None]


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Around a whole run: SIGTERM raises an :class:`InterruptedRunError`, unless a step asks for a grace."""
    with _on_sigterm(_end):
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            withdraw_stop_request()


@contextmanager
def with_grace(seconds: float) -> Iterator[None]:
    """Around a step: SIGTERM requests a stop, and raises an :class:`InterruptedRunError` after ``seconds``.

    Python delivers signals to the main thread only; in others nothing changes.

    Raises:
        InterruptedRunError: the stop was requested before, of a step that could end without noticing.
    """
    if stop_requested():
        _end(signal.SIGTERM, None)

    def asked(number: int, frame: FrameType | None) -> None:
        if not seconds:
            _end(number, frame)
        request_stop()
        signal.setitimer(signal.ITIMER_REAL, seconds)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGALRM, _end)  # stays: what the step returns is stored within the grace as well
    with _on_sigterm(asked):
        yield


@contextmanager
def _on_sigterm(handler: Handler) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(number: int, frame: FrameType | None) -> None:
    raise InterruptedRunError(
        "The run was asked to stop"
        + (" and wrote no checkpoint within its grace" if number == signal.SIGALRM else "")
        + "; the next `rlhf run --resume` goes on with it."
    )
