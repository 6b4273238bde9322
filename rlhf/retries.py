"""Calls to something that may be away for a while: repeated with growing pauses, as long as patience lasts.

What the user has to mend is never repeated: who calls says which errors pass.
"""

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from rlhf.errors import RLHFError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 30.0


def retried(
    call: Callable[[], Result],
    *,
    passes: Callable[[Exception], bool],
    doing: str,
    patience: float,
) -> Result:
    """The call's result, after as many attempts as it takes.

    Args:
        passes: whether an error may be gone at the next attempt.
        doing: what is being done, for the log.
        patience: seconds from the first attempt to the start of the last one.

    Raises:
        Exception: the last attempt's, or the first that does not pass; an :class:`RLHFError` never does.
    """
    deadline = time.monotonic() + patience
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return call()
        except Exception as error:
            if isinstance(error, RLHFError) or not passes(error) or time.monotonic() + pause > deadline:
                raise
            logger.warning("%s failed (%s); trying again in %.0f s", doing, _first_line(error), pause)
        # those whom one restart has thrown out must not come back together
        time.sleep(pause * random.uniform(0.7, 1.0))
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
