"""Where training reports to: the ``MetricSink`` protocol and the sinks that need no server.

The library never talks to a tracking server; an adapter that does is injected by whoever runs a stage.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol, runtime_checkable


@runtime_checkable
class MetricSink(Protocol):
    """Receives what a stage has to say while it runs. Implementations must never raise into training."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record scalars such as ``{"sft/loss": 2.1}`` at ``step`` of that prefix's own axis."""
        ...

    def log_params(self, params: Mapping[str, object]) -> None:
        """Record settings once, as flat ``prefix/key`` pairs."""
        ...

    def log_text(self, text: str, name: str) -> None:
        """Keep a small text file (a report, a config) under ``name``."""
        ...

    def progress(self, done: int, total: int, note: str = "") -> None:
        """Move the progress display to ``done`` of ``total`` units."""
        ...


class NullSink:
    """Discards everything."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        pass

    def log_params(self, params: Mapping[str, object]) -> None:
        pass

    def log_text(self, text: str, name: str) -> None:
        pass

    def progress(self, done: int, total: int, note: str = "") -> None:
        pass


class RecordingSink(NullSink):
    """Keeps every metric in memory and passes everything on; its curves travel with the trained model."""

    def __init__(self, inner: MetricSink | None = None) -> None:
        self._inner: MetricSink = inner or NullSink()
        self.curves: dict[str, list[tuple[int, float]]] = {}

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self.curves.setdefault(name, []).append((step, float(value)))
        self._inner.log_metrics(metrics, step)

    def restore(self, curves: Mapping[str, Iterable[tuple[int, float]]]) -> None:
        """Take over what was logged up to a checkpoint, and pass it on: the process that logged it may have
        ended before all of it was sent. Who keeps the metrics for good takes each step of a name once."""
        points: dict[int, dict[str, float]] = {}
        for name, values in curves.items():
            for step, value in values:
                points.setdefault(step, {})[name] = value
        for step, metrics in sorted(points.items()):
            self.log_metrics(metrics, step)

    def log_params(self, params: Mapping[str, object]) -> None:
        self._inner.log_params(params)

    def log_text(self, text: str, name: str) -> None:
        self._inner.log_text(text, name)

    def progress(self, done: int, total: int, note: str = "") -> None:
        self._inner.progress(done, total, note)


def recorded_curves(sink: MetricSink) -> dict[str, list[tuple[int, float]]]:
    """What a sink has kept, for a checkpoint; nothing of one that keeps nothing."""
    return sink.curves if isinstance(sink, RecordingSink) else {}


def restore_curves(sink: MetricSink, curves: Mapping[str, Iterable[tuple[int, float]]]) -> None:
    """The inverse of :func:`recorded_curves`, for a fresh sink."""
    if isinstance(sink, RecordingSink):
        sink.restore(curves)
