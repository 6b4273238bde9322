"""A forecast of a run: what each step takes, where that is known from, and what does not fit."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Basis = Literal["earlier run", "calibration", "shape", ""]


@dataclass(frozen=True)
class StepForecast:
    """One step. None where nothing is known."""

    step: str
    seconds: float | None = None
    seconds_from: Basis = ""
    peak_bytes: float | None = None
    peak_from: Basis = ""
    cached_from: str | None = None
    """The run whose outputs the step will take."""


@dataclass(frozen=True)
class Shortage:
    """A step that cannot fit, and the settings that would make it fit."""

    step: str
    needed: float
    available: float
    """Both in bytes."""
    remedy: Mapping[str, Any] | None

    def __str__(self) -> str:
        needs = f"{self.step} needs {self.needed / 2**30:.1f} GiB and {self.available / 2**30:.1f} are there"
        if self.remedy is None:
            return f"{needs}; no micro-batch, checkpointing or LoRA makes it fit: take a smaller model."
        overrides = " ".join(f"{key}={_flow(value)}" for key, value in self.remedy.items())
        return f"{needs}; it fits with: {overrides}"


@dataclass(frozen=True)
class Forecast:
    """All steps of a run."""

    steps: tuple[StepForecast, ...]

    @property
    def seconds(self) -> float | None:
        """Of the steps that will be computed, one after the other; None if one of them is unknown."""
        known = [step.seconds for step in self.steps if step.cached_from is None]
        return None if any(s is None for s in known) else sum(s for s in known if s is not None)

    @property
    def peak_bytes(self) -> float | None:
        """Of the greediest step that will be computed."""
        known = [s.peak_bytes for s in self.steps if s.cached_from is None and s.peak_bytes is not None]
        return max(known, default=None)

    def cost(self, price_per_hour: float | None, gpus: int) -> float | None:
        """In the price's currency."""
        if price_per_hour is None or self.seconds is None:
            return None
        return self.seconds / 3600 * price_per_hour * gpus

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return {"steps": [asdict(step) for step in self.steps]}


def from_data(data: Mapping[str, Any]) -> Forecast:
    """The inverse of :meth:`Forecast.as_data`."""
    return Forecast(tuple(StepForecast(**step) for step in data["steps"]))


def compared(forecast: Forecast, actual: Mapping[str, tuple[float, float]]) -> dict[str, dict[str, float]]:
    """Forecast and actual seconds and peak bytes by step, of the steps that were computed.

    Args:
        actual: (seconds, peak bytes) by step.
    """
    found: dict[str, dict[str, float]] = {}
    for step in forecast.steps:
        if step.step not in actual:
            continue
        seconds, peak = actual[step.step]
        entry = {"actual_seconds": seconds, "actual_peak_bytes": peak}
        if step.seconds is not None:
            entry["forecast_seconds"] = step.seconds
        if step.peak_bytes is not None:
            entry["forecast_peak_bytes"] = step.peak_bytes
        found[step.step] = entry
    return found


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "'{" + ", ".join(f"{k}: {v}" for k, v in value.items()) + "}'"
    return str(value).lower() if isinstance(value, bool) else str(value)
