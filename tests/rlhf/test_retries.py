"""Repeated calls: what passes is waited out, what the user has to mend is not."""

import pytest

import rlhf.retries as retries
from rlhf.errors import DataError
from rlhf.retries import retried


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    now = [0.0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(retries.time, "sleep", sleep)
    monkeypatch.setattr(retries.time, "monotonic", lambda: now[0])
    return slept


class Failing:
    def __init__(self, times: int, error: Exception) -> None:
        self.left, self.error, self.calls = times, error, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self.error
        return "done"


def test_a_fault_that_passes_is_waited_out_with_growing_pauses(pauses: list[float]) -> None:
    call = Failing(4, ConnectionError("away"))
    assert retried(call, passes=lambda error: True, doing="Asking", patience=60) == "done"
    assert call.calls == 5
    assert all(0.7 * 2**i <= pause <= 2**i for i, pause in enumerate(pauses))


def test_patience_ends(pauses: list[float]) -> None:
    call = Failing(99, ConnectionError("away"))
    with pytest.raises(ConnectionError):
        retried(call, passes=lambda error: True, doing="Asking", patience=10)
    assert sum(pauses) <= 10


@pytest.mark.parametrize("error", [DataError("wrong"), FileNotFoundError("gone")])
def test_what_the_user_has_to_mend_is_never_repeated(error: Exception, pauses: list[float]) -> None:
    call = Failing(1, error)
    with pytest.raises(type(error)):
        retried(call, passes=lambda e: not isinstance(e, FileNotFoundError), doing="Asking", patience=60)
    assert call.calls == 1
