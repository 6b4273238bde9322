"""What the newest run of a state folder took, as JSON: `python -m ops.run_readings`, for whoever started the
run in a state folder that is not their own."""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ops import environment

if TYPE_CHECKING:  # ZenML reads the environment when it is imported
    from mlflow.entities import Metric
    from zenml.models import PipelineRunResponse, StepRunResponse


def readings(run: "PipelineRunResponse") -> dict[str, dict[str, Any]]:
    """By step: its wall time in seconds, its peak of memory in bytes, the training rows of its outputs, and
    the moments of its curves: steps from 1 on, each with the times in seconds at which something was logged
    of it."""
    from mlflow.tracking import MlflowClient

    from ops.stage import MLFLOW_RUN_ID, STAGE_PEAK, tracking_uri

    mlflow, opened = MlflowClient(tracking_uri=tracking_uri()), str(run.run_metadata[MLFLOW_RUN_ID])
    points = [
        point
        for name in mlflow.get_run(opened).data.metrics
        for point in mlflow.get_metric_history(opened, name)
    ]
    return {
        name: {
            "seconds": _time(step.end_time) - _time(step.start_time),
            "peak": step.run_metadata.get(STAGE_PEAK, 0),
            "rows": {name: found[0].run_metadata.get("rows (train)") for name, found in step.outputs.items()},
            "moments": _moments(step, points),
        }
        for name, step in run.steps.items()
        if step.end_time is not None
    }


def _moments(step: "StepRunResponse", points: "list[Metric]") -> list[tuple[int, float]]:
    begin, end = _time(step.start_time), _time(step.end_time)
    times = {(point.step, point.timestamp / 1000) for point in points if point.step}
    return sorted(moment for moment in times if begin <= moment[1] <= end)


def _time(time: datetime | None) -> float:
    """ZenML's times are UTC and do not say so."""
    assert time is not None
    return time.replace(tzinfo=UTC).timestamp()


def main() -> None:
    """Print the readings of the newest run."""
    environment.configure()
    from zenml.client import Client

    print(json.dumps(readings(Client().list_pipeline_runs(size=1, sort_by="desc:created").items[0])))


if __name__ == "__main__":
    main()
