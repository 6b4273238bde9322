"""Cron expressions: checked, asked when they were last due, and translated for systemd."""

from datetime import datetime, timedelta

from croniter import CroniterBadCronError, CroniterBadDateError, croniter

from rlhf.errors import ConfigError

_NAMES = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
_FIELDS = 5


def last_due(expression: str, now: datetime) -> datetime:
    """The latest minute up to ``now``, in its zone, on which the expression was due.

    Raises:
        ConfigError: not five fields of cron's, or never due, like the 30th of February.
    """
    _expanded(expression)
    try:
        return croniter(expression, now + timedelta(seconds=1)).get_prev(datetime)
    except CroniterBadDateError as error:
        raise ConfigError(
            f"schedule.cron_expression: {expression!r} is never due; correct its day and month."
        ) from error


def on_calendar(expression: str) -> list[str]:
    """The expression as systemd's ``OnCalendar`` values: two where cron takes either of two days."""
    minute, hour, day, month, weekday = _expanded(expression)
    time = f"{_listed(hour)}:{_listed(minute)}:00"
    days = "" if weekday == ["*"] else ",".join(_NAMES[int(number)] for number in weekday) + " "
    by_date = f"*-{_listed(month)}-{_listed(day)} {time}"
    if days and day != ["*"]:
        return [by_date, f"{days}*-{_listed(month)}-* {time}"]
    return [days + by_date]


def _expanded(expression: str) -> list[list[int | str]]:
    try:
        fields, nth_weekdays = croniter.expand(expression)
    except CroniterBadCronError as error:
        raise ConfigError(f"schedule.cron_expression: {expression!r} is not cron's: {error}.") from error
    if len(fields) != _FIELDS or nth_weekdays or any("l" in field for field in fields):
        raise ConfigError(
            f"schedule.cron_expression: {expression!r} has not the five plain fields of cron (minute, hour, "
            "day, month, weekday), as in '0 3 * * 1'."
        )
    return fields


def _listed(values: list[int | str]) -> str:
    return "*" if values == ["*"] else ",".join(f"{int(value):02d}" for value in values)
