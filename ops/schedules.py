"""Retraining checks on a timetable of one machine: a systemd user timer or a crontab entry.

Both start ``rlhf schedule run NAME``, which takes a lock, so that a check never begins while another of the
same name is at work. A check that was missed is made up for once: by systemd's ``Persistent``, and with cron
when the machine starts again.
"""

import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from ops import cron, environment
from rlhf.errors import ConfigError

logger = logging.getLogger(__name__)

Backend = Literal["systemd", "cron"]
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,40}")


@dataclass(frozen=True)
class Schedule:
    """A retraining check and when it is due."""

    name: str
    config: str
    """Name of a shipped config, or an absolute path."""
    overrides: tuple[str, ...]
    cron: str
    """Five fields, in the machine's own time zone."""
    backend: Backend
    keep_stack: bool = False

    @property
    def command(self) -> tuple[str, ...]:
        """What the timetable starts."""
        return (str(Path(sys.executable).with_name("rlhf")), "schedule", "run", self.name)


def install(schedule: Schedule) -> None:
    """Put a schedule into the timetable, in place of an earlier one of its name.

    Raises:
        ConfigError: a name or an expression that cannot be used, or the timetable refuses it.
    """
    if not _NAME.fullmatch(schedule.name):
        raise ConfigError(
            f"{schedule.name!r} is no name for a schedule; take lower-case letters, digits, - and _."
        )
    cron.last_due(schedule.cron, datetime.now().astimezone())
    if found := next((s for s in installed() if s.name == schedule.name), None):
        remove(found.name)
    # From now on: what was due before there was a schedule has not been missed.
    _stamp(schedule.name).parent.mkdir(parents=True, exist_ok=True)
    _stamp(schedule.name).touch()
    if schedule.backend == "systemd":
        _units().mkdir(parents=True, exist_ok=True)
        for suffix, text in systemd_units(schedule).items():
            (_units() / f"{_unit(schedule.name)}.{suffix}").write_text(text)
        _call(["systemctl", "--user", "daemon-reload"])
        _call(["systemctl", "--user", "enable", "--now", f"{_unit(schedule.name)}.timer"])
    else:
        _write_crontab([*_foreign_lines(schedule.name), *crontab_lines(schedule)])
    _file(schedule.name).write_text(json.dumps(asdict(schedule), indent=1))


def remove(name: str) -> None:
    """Take a schedule out of the timetable.

    Raises:
        ConfigError: there is none of this name.
    """
    schedule = get(name)
    if schedule.backend == "systemd":
        _call(["systemctl", "--user", "disable", "--now", f"{_unit(name)}.timer"])
        for suffix in ("timer", "service"):
            (_units() / f"{_unit(name)}.{suffix}").unlink(missing_ok=True)
        _call(["systemctl", "--user", "daemon-reload"])
    else:
        _write_crontab(_foreign_lines(name))
    _file(name).unlink()


def installed() -> list[Schedule]:
    """The schedules of this installation, by name."""
    return [get(file.stem) for file in sorted(_folder().glob("*.json"))]


def get(name: str) -> Schedule:
    """A schedule by name.

    Raises:
        ConfigError: there is none.
    """
    if not _NAME.fullmatch(name) or not _file(name).exists():
        raise ConfigError(f"There is no schedule {name!r}; `rlhf schedule list` lists them.")
    stored = json.loads(_file(name).read_text())
    return Schedule(**{**stored, "overrides": tuple(stored["overrides"])})


def run(name: str, *, if_missed: bool = False) -> int | None:
    """Start a schedule's check and wait for its end.

    Args:
        if_missed: only if it was due since it last began.

    Returns:
        Its exit status; None if it did not begin, because it is at work already or was not missed.
    """
    schedule = get(name)
    lock = FileLock(_folder() / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.warning("The check %s is still at work; this one is left out.", name)
        return None
    with lock:
        now = datetime.now().astimezone()
        last = datetime.fromtimestamp(_stamp(name).stat().st_mtime).astimezone()
        if if_missed and cron.last_due(schedule.cron, now) <= last:
            return None
        _stamp(name).touch()
        keep = ["--keep-stack"] if schedule.keep_stack else []
        command = [schedule.command[0], "retrain", *keep, schedule.config, *schedule.overrides]
        return subprocess.run(
            command, env={**os.environ, **_variables()}, cwd=environment.PROJECT_ROOT, check=False
        ).returncode


def available_backend() -> Backend:
    """systemd where the user has an instance of it that answers, else cron.

    Raises:
        ConfigError: neither is there.
    """
    if shutil.which("systemctl"):
        asked = subprocess.run(["systemctl", "--user", "show-environment"], capture_output=True, check=False)
        if asked.returncode == 0:
            return "systemd"
    if shutil.which("crontab"):
        return "cron"
    raise ConfigError(
        "Neither a systemd user instance nor crontab is there; see `rlhf schedule render` for other places."
    )


def systemd_units(schedule: Schedule) -> dict[str, str]:
    """The text of the service and of its timer."""
    start = " ".join(_systemd_quoted(word) for word in schedule.command)
    home = _systemd_quoted(f"RLHF_HOME={environment.home()}")
    service = (
        f"[Unit]\nDescription=RLHF retraining check {schedule.name}\n\n"
        f"[Service]\nType=oneshot\nEnvironment={home}\nExecStart={start}\n"
    )
    due = "\n".join(f"OnCalendar={value}" for value in cron.on_calendar(schedule.cron))
    timer = (
        f"[Unit]\nDescription=When the RLHF retraining check {schedule.name} is due\n\n"
        f"[Timer]\n{due}\nPersistent=true\n\n[Install]\nWantedBy=timers.target\n"
    )
    return {"service": service, "timer": timer}


def crontab_lines(schedule: Schedule) -> list[str]:
    """The entry, and the one that makes up for a missed check when the machine starts."""
    log = environment.home() / "logs" / f"schedule-{schedule.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    begin = f"RLHF_HOME={shlex.quote(str(environment.home()))} {shlex.join(schedule.command)}"
    end = _for_cron(f">> {shlex.quote(str(log))} 2>&1") + f" {_mark(schedule.name)}"
    begin = _for_cron(begin)
    return [f"{schedule.cron} {begin} {end}", f"@reboot {begin} --if-missed {end}"]


def _variables() -> dict[str, str]:
    """What the user's file ``schedules/environment`` adds: tokens that a timetable's bare environment
    lacks."""
    file = _folder() / "environment"
    if not file.exists():
        return {}
    if file.stat().st_mode & 0o077:
        raise ConfigError(f"{file} can be read by others; run chmod 600 on it, as it may hold secrets.")
    pairs = (line.partition("=") for line in file.read_text().splitlines() if "=" in line and line[0] != "#")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _foreign_lines(name: str) -> list[str]:
    """The user's crontab without the lines of this schedule."""
    done = subprocess.run(["crontab", "-l"], capture_output=True, text=True, check=False)
    if done.returncode and "no crontab" not in done.stderr.lower():
        raise ConfigError(f"The crontab cannot be read: {done.stderr.strip()}.")  # and must not be replaced
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    return [line for line in lines if not line.endswith(_mark(name))]


def _write_crontab(lines: Sequence[str]) -> None:
    _call(["crontab", "-"], "".join(f"{line}\n" for line in lines))


def _call(command: Sequence[str], text: str | None = None) -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"`{shlex.join(command)}` failed: {done.stderr.strip() or done.returncode}.")


def _mark(name: str) -> str:
    # Of this installation: another checkout's schedule of the same name is not ours to remove.
    return _for_cron(f"# rlhf schedule {name} of {environment.home()}")


def _for_cron(text: str) -> str:
    return text.replace("%", r"\%")  # to cron a % is the end of the command


def _unit(name: str) -> str:
    return f"rlhf-{name}"


def _units() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user"


def _systemd_quoted(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def _folder() -> Path:
    return environment.home() / "schedules"


def _file(name: str) -> Path:
    return _folder() / f"{name}.json"


def _stamp(name: str) -> Path:
    return _folder() / f"{name}.last"
