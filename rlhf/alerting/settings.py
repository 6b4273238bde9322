"""Settings of alerts: who is told of what. Light on purpose: configs are validated with this module alone."""

from typing import Literal, get_args

from pydantic import Field

from rlhf.settings import Settings

AlertEvent = Literal[
    "run_failed", "gate_verdict", "agreement_collapsed", "approval_waiting", "training_started"
]


class AlertSettings(Settings):
    """Messages to people, by any service that Apprise knows. The addresses hold tokens, so a config only
    names where they are; without either name nobody is told anything."""

    urls_variable: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable that holds the Apprise URLs, separated by white space."""
    urls_secret: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]+$")
    """Name of the ZenML secret whose values are Apprise URLs."""
    events: tuple[AlertEvent, ...] = get_args(AlertEvent)
    """Of which events they are told."""
    timeout_seconds: float = Field(default=30.0, gt=0)
    """Longest that sending may hold a step up."""

    @property
    def addressed(self) -> bool:
        """Whether there is anybody to tell."""
        return self.urls_variable is not None or self.urls_secret is not None
