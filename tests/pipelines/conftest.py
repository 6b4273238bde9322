"""One real run of the whole pipeline on a tiny config, shared by the tests of this folder."""

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from zenml.client import Client
from zenml.models import PipelineRunResponse

from ops import launch
from ops.stage import tracking_uri

TINY = Path(__file__).parent / "tiny.yaml"


def finished(run: launch.FinishedRun) -> PipelineRunResponse:
    """The run as ZenML recorded it."""
    assert run.status == "completed"
    return Client().get_pipeline_run(run.id)


@pytest.fixture(scope="session")
def first_run() -> PipelineRunResponse:
    """The first run in an empty state folder: nothing cached, no champion."""
    return finished(launch.run(str(TINY)))


@pytest.fixture(scope="session")
def mlflow(first_run: PipelineRunResponse) -> MlflowClient:
    """The tracking server of the active stack."""
    uri = tracking_uri()
    assert uri is not None
    return MlflowClient(tracking_uri=uri, registry_uri=uri)
