"""A request to stop, as spot instances and schedulers make it by SIGTERM: training writes a checkpoint at the
next point that it can be continued from, and ends there.

Who receives the signal is the caller's business; here is only what trainers ask between two steps.
"""

import threading

from rlhf.errors import InterruptedRunError

_requested = threading.Event()


def request_stop() -> None:
    """Ask whatever trains in this process to end at its next checkpoint, which it writes at once."""
    _requested.set()


def withdraw_stop_request() -> None:
    """Forget the request, before something else is trained."""
    _requested.clear()


def stop_requested() -> bool:
    """Whether training should write a checkpoint and end."""
    return _requested.is_set()


def end_if_stop_requested(done: str) -> None:
    """To be called when a checkpoint has been written.

    Args:
        done: how far training had come, such as ``step 40``.

    Raises:
        InterruptedRunError: a stop was requested.
    """
    if stop_requested():
        raise InterruptedRunError(
            f"Training was asked to stop and wrote a checkpoint after {done}; the next `rlhf run --resume` "
            "goes on from there."
        )
