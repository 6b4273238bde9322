"""SIGTERM: a request while training may still write a checkpoint, an error at once otherwise."""

import os
import signal
import time

import pytest

from ops.signals import ending_at_once, with_grace
from rlhf.errors import InterruptedRunError
from rlhf.training.interruption import stop_requested


def _asked(seconds_left: float) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop_requested()
    time.sleep(seconds_left)


def _run(grace: float, steps: list[str], *, working: float) -> None:
    """Two steps, in the first of which SIGTERM comes."""
    with ending_at_once():
        with with_grace(grace):
            _asked(working)
            steps.append("first")
        with with_grace(grace):
            steps.append("second")


def test_a_step_with_a_grace_is_asked_and_ended_when_it_is_over() -> None:
    started = time.monotonic()
    with pytest.raises(InterruptedRunError, match="within its grace"):
        _run(0.2, [], working=5.0)
    assert 0.15 < time.monotonic() - started < 2
    assert not stop_requested()


def test_a_step_that_ends_within_its_grace_is_the_last_one() -> None:
    ended: list[str] = []
    with pytest.raises(InterruptedRunError):
        _run(30, ended, working=0.0)
    assert ended == ["first"]
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_a_step_without_training_ends_at_once_and_the_former_handler_is_back_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    started = time.monotonic()
    with pytest.raises(InterruptedRunError, match="asked to stop;"):
        _run(0, [], working=5.0)
    assert time.monotonic() - started < 2
    assert signal.getsignal(signal.SIGTERM) is before
