"""Alerts: what is sent, and when.

Sending is another process's work (``ops.alert_sender``), so that nothing that goes wrong there, a crash and a
hanging server included, reaches the run; and URLs, which hold tokens, are never in this one.
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from zenml import get_step_context

from ops import environment
from rlhf.alerting.settings import AlertEvent, AlertSettings

logger = logging.getLogger(__name__)

EXTRA = "alerts"
"""Key of the settings in a run's ``extra``, where hooks find them."""


def with_alerts(config: Mapping[str, Any], settings: AlertSettings) -> dict[str, Any]:
    """A config for ZenML that carries the settings of alerts to the run's hooks."""
    if not settings.addressed:
        return dict(config)
    return {**config, "extra": {**(config.get("extra") or {}), EXTRA: settings.model_dump(mode="json")}}


def alert(event: AlertEvent, title: str, text: str) -> None:
    """Tell people of an event of the running pipeline run, if its config asks for it. Never raises."""
    run = get_step_context().pipeline_run
    stored = run.config.extra.get(EXTRA)
    if stored is not None:
        send(AlertSettings.model_validate(stored), event, title, f"{text}\nRun: {run.name}")


def send(settings: AlertSettings, event: AlertEvent, title: str, text: str) -> bool:
    """Hand a message over, and say in the log if it could not be delivered.

    Returns:
        Whether every address took it.
    """
    if not settings.addressed or event not in settings.events:
        return False
    asked = {**settings.model_dump(mode="json"), "title": title, "text": text}
    paths = [str(environment.PROJECT_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "ops.alert_sender"],
            input=json.dumps(asked),
            capture_output=True,  # and not shown: services quote the URL in their errors
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            timeout=settings.timeout_seconds,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("The alert %r was not sent (%s).", event, type(error).__name__)
        return False
    if ended.returncode:
        reason = _REASONS.get(ended.returncode, "a service refused it or could not be reached")
        logger.warning("The alert %r was not delivered to all: %s.", event, reason)
    return ended.returncode == 0


NOT_INSTALLED, NO_URLS, WRONG_URL = 3, 4, 5
_REASONS = {
    NOT_INSTALLED: "Apprise is not installed; run pip install 'rlhf-pipeline[alerts]'",
    NO_URLS: "the variable or secret that alerts names holds no URL",
    WRONG_URL: "Apprise does not know one of the URLs",
}
