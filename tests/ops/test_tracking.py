"""The MLflow sink: one run, nothing lost while the server is away, never an error into training."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.entities import RunStatus
from mlflow.tracking import MlflowClient

from ops.tracking import MLflowSink, PipelineRun, deliver_spooled, mlflow_sink, open_run

RUN = PipelineRun("run-1", "a run", "tracking-test")


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/mlflow.db"


def test_two_stages_of_a_pipeline_run_share_one_mlflow_run(uri: str) -> None:
    for step in (1, 2):
        with mlflow_sink(uri, RUN, {}) as sink:
            sink.log_metrics({"sft/loss": 1.0 / step}, step)
    client = MlflowClient(tracking_uri=uri)
    run = open_run(client, RUN, {})
    history = client.get_metric_history(run.info.run_id, "sft/loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.5)]
    assert len(client.search_runs([run.info.experiment_id])) == 1


def test_what_could_not_be_sent_is_kept_and_sent_by_the_next_stage(
    uri: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    nobody = "http://127.0.0.1:9"
    with caplog.at_level(logging.WARNING), mlflow_sink(nobody, RUN, {}) as sink:
        sink.log_params({"sft/epochs": 3})
        sink.log_metrics({"sft/loss": 2.0}, 1)
        sink.log_text("hello", "notes.txt")
        assert sink.opened is None
    assert "3 entries could not be sent to MLflow" in caplog.text
    with mlflow_sink(uri, RUN, {}) as sink:
        sink.log_metrics({"sft/loss": 1.0}, 2)
    client = MlflowClient(tracking_uri=uri)
    run = client.get_run(open_run(client, RUN, {}).info.run_id)
    assert [p.value for p in client.get_metric_history(run.info.run_id, "sft/loss")] == [2.0, 1.0]
    assert run.data.params == {"sft/epochs": "3"}
    assert [a.path for a in client.list_artifacts(run.info.run_id)] == ["notes.txt"]


def test_what_a_run_left_behind_is_sent_by_another_one_and_its_end_too(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with mlflow_sink("http://127.0.0.1:9", PipelineRun("left", "left", RUN.pipeline), {"a": "b"}) as sink:
        sink.log_metrics({"sft/loss": 2.0}, 1)
        sink.finish_on_close()
    client = MlflowClient(tracking_uri=uri)
    assert deliver_spooled(client)
    run = open_run(client, PipelineRun("left", "left", RUN.pipeline), {})
    run = client.get_run(run.info.run_id)
    assert (run.info.status, run.data.metrics, run.data.tags["a"]) == ("FINISHED", {"sft/loss": 2.0}, "b")


def test_a_continued_run_has_each_step_once(uri: str) -> None:
    with mlflow_sink(uri, RUN, {}) as sink:
        for step in (1, 2, 3):
            sink.log_metrics({"sft/loss": 1.0 / step}, step)
        sink.end(RunStatus.KILLED)
    client = MlflowClient(tracking_uri=uri)
    with mlflow_sink(uri, replace(RUN, name="next", continued=True), {"zenml.run_name": "next"}) as sink:
        assert sink.opened is not None
        assert client.get_run(sink.opened.info.run_id).info.status == "RUNNING"
        for step in (2, 3, 4, 4):
            sink.log_metrics({"sft/loss": 1.0 / step}, step)
    run = client.get_run(open_run(client, RUN, {}).info.run_id)
    assert [p.step for p in client.get_metric_history(run.info.run_id, "sft/loss")] == [1, 2, 3, 4]
    assert run.data.tags["zenml.run_name"] == "next"


def test_an_entry_that_mlflow_refuses_does_not_block_those_behind_it(uri: str) -> None:
    with mlflow_sink(uri, RUN, {}) as sink:
        sink.log_params({"sft/epochs": 3})
        sink.flush()
        sink.log_params({"sft/epochs": 4})  # a parameter cannot change
        sink.log_metrics({"sft/loss": 2.0}, 1)
        sink.log_text("hello", "notes.txt")
    client = MlflowClient(tracking_uri=uri)
    run = client.get_run(open_run(client, RUN, {}).info.run_id)
    assert run.data.params == {"sft/epochs": "3"}
    assert run.data.metrics == {"sft/loss": 2.0}
    assert [a.path for a in client.list_artifacts(run.info.run_id)] == ["notes.txt"]


def test_an_experiment_deleted_in_the_ui_is_restored(uri: str) -> None:
    client = MlflowClient(tracking_uri=uri)
    client.delete_experiment(open_run(client, RUN, {}).info.experiment_id)
    with mlflow_sink(uri, PipelineRun("run-2", "another", RUN.pipeline), {}) as sink:
        sink.log_metrics({"sft/loss": 2.0}, 1)
        assert sink.opened is not None


def test_a_sink_is_a_metric_sink(uri: str) -> None:
    from rlhf.tracking import MetricSink

    with mlflow_sink(uri, RUN, {}) as sink:
        assert isinstance(sink, MLflowSink)
        assert isinstance(sink, MetricSink)
