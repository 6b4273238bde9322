"""Sentences about timetables. Stand-ins for `crontab` and `systemctl` keep the real ones out of it."""

import os
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from filelock import FileLock

from ops import environment, schedules
from ops.cli import main
from ops.schedules import Schedule
from rlhf.errors import ConfigError

CRONTAB = """#!/bin/sh
file="$STAND_IN/table"
if [ "$1" = -l ]; then [ -f "$file" ] && cat "$file" || { echo "no crontab for you" >&2; exit 1; }
else cat > "$file"; fi
"""
SYSTEMCTL = '#!/bin/sh\necho "$@" >> "$STAND_IN/systemctl.log"\n'
CONFIG = str(Path(__file__).parents[1] / "pipelines" / "tiny.yaml")


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in (("crontab", CRONTAB), ("systemctl", SYSTEMCTL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("RLHF_HOME", str(tmp_path / "50%state"))
    return tmp_path


def _said(*arguments: str) -> str:
    done = CliRunner().invoke(main, ["schedule", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_a_crontab_keeps_the_users_own_lines_when_ours_come_and_go(stand_in: Path) -> None:
    own = "5 5 * * * backup # rlhf schedule of mine"
    table = stand_in / "table"
    table.write_text(own + "\n")
    for _ in range(2):  # installing again replaces
        _said("install", CONFIG, "--cron", "0 3 * * 1", "--with", "cron", "--name", "weekly")
    lines = table.read_text().splitlines()
    assert lines[0] == own
    assert len(lines) == 3
    assert lines[1].startswith("0 3 * * 1 ")
    assert lines[2].startswith("@reboot ")
    assert "--if-missed" in lines[2]
    assert r"50\%state" in lines[1]
    assert "weekly: 0 3 * * 1 by cron" in _said("list")
    _said("remove", "weekly")
    assert table.read_text() == own + "\n"
    assert _said("list") == ""


def test_a_systemd_timer_is_persistent_and_is_enabled_and_disabled(stand_in: Path) -> None:
    _said("install", CONFIG, "--cron", "0 3 * * 1", "--with", "systemd", "--name", "weekly")
    units = stand_in / "config" / "systemd" / "user"
    timer = (units / "rlhf-weekly.timer").read_text()
    assert "OnCalendar=Mon *-*-* 03:00:00\nPersistent=true" in timer
    service = (units / "rlhf-weekly.service").read_text()
    assert "Type=oneshot" in service
    assert "50%%state" in service
    _said("remove", "weekly")
    assert not list(units.iterdir())
    calls = (stand_in / "systemctl.log").read_text().splitlines()
    assert calls[1] == "--user enable --now rlhf-weekly.timer"
    assert calls[2] == "--user disable --now rlhf-weekly.timer"


def _scheduled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A schedule whose command notes its calls."""
    schedules.install(Schedule("weekly", "support_desk", ("seed=1",), "0 3 * * 1", "systemd"))
    calls = tmp_path / "calls"
    script = tmp_path / "rlhf"
    script.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    script.chmod(0o755)
    monkeypatch.setattr(schedules.sys, "executable", str(tmp_path / "python"))
    return calls


def test_a_check_never_begins_while_another_is_at_work(
    stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _scheduled(stand_in, monkeypatch)
    with FileLock(environment.home() / "schedules" / "weekly.lock"):
        assert schedules.run("weekly") is None
    assert schedules.run("weekly") == 0
    assert calls.read_text() == "retrain support_desk seed=1\n"


def test_a_missed_check_is_made_up_for_once(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _scheduled(stand_in, monkeypatch)
    assert schedules.run("weekly", if_missed=True) is None  # nothing was due since it was installed
    two_weeks_ago = time.time() - 14 * 86_400
    os.utime(environment.home() / "schedules" / "weekly.last", (two_weeks_ago, two_weeks_ago))
    assert schedules.run("weekly", if_missed=True) == 0
    assert schedules.run("weekly", if_missed=True) is None
    assert len(calls.read_text().splitlines()) == 1


def test_secrets_for_checks_lie_in_a_file_that_only_the_owner_reads(
    stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _scheduled(stand_in, monkeypatch)
    file = environment.home() / "schedules" / "environment"
    file.write_text("# for the check\nTOKEN=a=b\n")
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        schedules.run("weekly")
    file.chmod(0o600)
    assert schedules._variables() == {"TOKEN": "a=b"}


def test_a_cronjob_never_overlaps_and_names_its_secret_by_reference() -> None:
    cron = ["--cron", "0 3 * * 1", "--as", "kubernetes", "--image", "registry.example/rlhf:1"]
    job = yaml.safe_load(_said("render", "support_desk", *cron, "--secret", "rlhf"))
    assert job["spec"]["schedule"] == "0 3 * * 1"
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    [container] = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["rlhf", "retrain", "--keep-stack", "support_desk"]
    assert container["envFrom"] == [{"secretRef": {"name": "rlhf"}}]


def test_a_workflow_runs_on_the_schedule_one_at_a_time() -> None:
    said = _said("render", "support_desk", "--cron", "0 3 * * 1", "--as", "github", "--secret", "HF_TOKEN")
    workflow = yaml.safe_load(said)
    assert workflow["on"]["schedule"] == [{"cron": "0 3 * * 1"}]
    assert workflow["concurrency"] == {"group": "rlhf-support_desk", "cancel-in-progress": False}
    assert workflow["jobs"]["retrain"]["env"] == {"HF_TOKEN": "${{ secrets.HF_TOKEN }}"}
