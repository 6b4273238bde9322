"""Sentences about alerts. A stand-in takes the messages in place of Apprise, which would send them."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ops import alerts, hooks
from rlhf.alerting.settings import AlertSettings
from rlhf.errors import AgreementError, TrainingError

APPRISE = """
import json, os, time
class Apprise:
    def __init__(self): self.urls = []
    def add(self, url):
        if url.startswith("crash"): raise RuntimeError(url)
        if url.startswith("hang"): time.sleep(60)
        self.urls.append(url)
        return not url.startswith("unknown")
    def notify(self, title, body):
        with open(os.environ["SENT"], "a") as out:
            out.write(json.dumps([self.urls, title, body]) + chr(10))
        return not any(url.startswith("down") for url in self.urls)
"""
SETTINGS = AlertSettings(urls_variable="ALERT_URLS", timeout_seconds=20)


@pytest.fixture
def sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "apprise.py").write_text(APPRISE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("SENT", str(tmp_path / "sent"))
    monkeypatch.setenv("ALERT_URLS", "mail://token@a json://b")
    return tmp_path / "sent"


def test_all_addresses_of_the_variable_are_told(sent: Path) -> None:
    assert alerts.send(SETTINGS, "gate_verdict", "Gate", "promoted")
    assert json.loads(sent.read_text()) == [["mail://token@a", "json://b"], "Gate", "promoted"]


@pytest.mark.parametrize("url", ["crash://s3cret", "down://s3cret", "unknown://s3cret", "hang://s3cret", ""])
def test_whatever_goes_wrong_is_a_warning_without_the_url(
    url: str, sent: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ALERT_URLS", url)
    seconds = 1.5 if url.startswith("hang") else 20
    settings = AlertSettings(urls_variable="ALERT_URLS", timeout_seconds=seconds)
    with caplog.at_level(logging.WARNING):
        assert not alerts.send(settings, "run_failed", "x", "y")
    assert "run_failed" in caplog.text
    assert "s3cret" not in caplog.text


def test_events_that_nobody_asked_for_and_configs_without_addresses_send_nothing(sent: Path) -> None:
    assert not alerts.send(AlertSettings(urls_variable="ALERT_URLS", events=()), "run_failed", "x", "y")
    assert not alerts.send(AlertSettings(), "run_failed", "x", "y")
    assert not sent.exists()
    assert alerts.with_alerts({"parameters": {}}, AlertSettings()) == {"parameters": {}}


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (TrainingError("the loss is not finite"), "run_failed"),
        (AgreementError("alpha 0.1"), "agreement_collapsed"),
    ],
)
def test_a_failed_run_tells_why_and_a_collapse_of_agreement_is_told_apart(
    error: Exception, event: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[Any, ...]] = []
    config = SimpleNamespace(extra={alerts.EXTRA: SETTINGS.model_dump(mode="json")})
    run = SimpleNamespace(name="run-1", id="1", config=config)
    context = SimpleNamespace(pipeline_run=run, pipeline=SimpleNamespace(name="p"), step_name="train_sft")
    monkeypatch.setattr(alerts, "get_step_context", lambda: context)
    monkeypatch.setattr(hooks, "get_step_context", lambda: context)
    monkeypatch.setattr(hooks, "tracking_uri", lambda: None)
    monkeypatch.setattr(alerts, "send", lambda *said: told.append(said))
    hooks.mark_run_failed(error)
    [(settings, said, _, text)] = told
    assert (settings, said) == (SETTINGS, event)
    assert f"train_sft: {error}" in text
    assert "run-1" in text
