"""The evaluation's answers arrive in MLflow as a table that MLflow itself reads."""

from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from ops.evaluation_samples import TABLE, log_samples
from ops.tracking import PipelineRun, mlflow_sink, open_run
from rlhf.tracking import NullSink

RUN = PipelineRun("run-1", "a run", "samples-test")
SAMPLES = [
    {"record_id": "a", "prompt": "Why?", "policy_completion": "So.", "policy_proxy": 0.5},
    {"record_id": "b", "prompt": [{"role": "user", "content": "Who?"}], "policy_completion": "Me."},
]


def test_mlflow_reads_the_answers_as_a_table_of_the_run(
    tmp_path: Path, lead_mlflow_to: Callable[[str], None]
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with mlflow_sink(uri, RUN, {}) as sink:
        log_samples(sink, SAMPLES)
    client = MlflowClient(tracking_uri=uri)
    run = open_run(client, RUN, {})
    lead_mlflow_to(uri)
    table = client.load_table(run.info.experiment_id, TABLE, run_ids=[run.info.run_id])
    assert table["prompt"].tolist() == ["Why?", "user: Who?"]
    assert table["policy_completion"].tolist() == ["So.", "Me."]
    assert table["policy_proxy"].tolist()[0] == pytest.approx(0.5)
    assert table["policy_proxy"].isna().tolist() == [False, True]


def test_without_a_tracker_nothing_is_asked_of_it() -> None:
    log_samples(NullSink(), SAMPLES)
