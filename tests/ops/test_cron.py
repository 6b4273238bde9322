"""Sentences about cron expressions."""

from datetime import UTC, datetime

import pytest

from ops.cron import last_due, on_calendar
from rlhf.errors import ConfigError


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("0 3 * * 1", ["Mon *-*-* 03:00:00"]),
        ("*/30 9-10 * * mon-wed", ["Mon,Tue,Wed *-*-* 09,10:00,30:00"]),
        ("15 4 1 jan,jul *", ["*-01,07-01 04:15:00"]),
        ("0 0 13 * 5", ["*-*-13 00:00:00", "Fri *-*-* 00:00:00"]),
        ("0 5 * * 7", ["Sun *-*-* 05:00:00"]),
    ],
)
def test_an_expression_is_due_at_the_same_times_in_systemds_words(
    expression: str, expected: list[str]
) -> None:
    assert on_calendar(expression) == expected


def test_the_last_due_minute_may_be_now() -> None:
    now = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)  # a Monday
    assert last_due("0 3 * * 1", now) == now
    assert last_due("1 3 * * 1", now) == datetime(2026, 11, 16, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize("expression", ["0 3 * *", "61 3 * * 1", "0 3 * * * *", "0 3 * * 5#2", "0 0 30 2 *"])
def test_what_is_not_crons_or_never_due_is_refused_by_its_key(expression: str) -> None:
    with pytest.raises(ConfigError, match=r"schedule\.cron_expression"):
        last_due(expression, datetime(2026, 11, 23, tzinfo=UTC))
