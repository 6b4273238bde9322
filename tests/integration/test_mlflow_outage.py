"""Training beside a real MLflow server that goes away and comes back: not a point of its curves is lost."""

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from ops import tracking
from ops.tracking import MLflowSink, PipelineRun, deliver_spooled, mlflow_sink
from rlhf.tracking import RecordingSink
from rlhf.training.pretrain import pretrain
from rlhf.training.settings import ArchitectureSettings, PretrainSettings
from tests.integration.mlflow_server import MLflowServer, free_port
from tests.rlhf.training.conftest import demonstration_rows

pytestmark = pytest.mark.slow

RUN = PipelineRun("outage", "outage", "outage")
SETTINGS = PretrainSettings(
    vocabulary_size=300,
    steps=30,
    batch_size=4,
    max_length=32,
    logging_steps=1,
    architecture=ArchitectureSettings(hidden_size=16, layers=1, heads=2, ffn_size=16, max_positions=64),
)


class Outage(RecordingSink):
    """Takes the server away at one step of training and brings it back at another one."""

    def __init__(self, inner: MLflowSink, server: MLflowServer, *, stop: int, start: int | None) -> None:
        super().__init__(inner)
        self._server, self._stop, self._start = server, stop, start

    def progress(self, done: int, total: int, note: str = "") -> None:
        if done == self._stop:
            self._server.stop()
        if done == self._start:
            self._server.start()


def test_metrics_are_kept_while_the_server_is_away_and_delivered_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from datasets import Dataset, DatasetDict

    monkeypatch.setattr(tracking, "_SECONDS_AFTER_FAILURE", 0.0)
    monkeypatch.setattr(tracking, "_SECONDS_BETWEEN_FLUSHES", 0.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    rows = [f"{row['prompt'][0]['content']}" for row in demonstration_rows(0, 60)]
    texts = DatasetDict(train=Dataset.from_dict({"text": rows}))
    server = MLflowServer(tmp_path, free_port())
    server.start()
    try:
        with mlflow_sink(server.url, RUN, {}) as sink:
            within = Outage(sink, server, stop=5, start=20)
            pretrain(texts, SETTINGS, tmp_path / "first", sink=within)
        assert "could not be sent" not in caplog.text
        # and away for good, until a later run starts
        with mlflow_sink(server.url, RUN, {}) as sink:
            to_the_end = Outage(sink, server, stop=5, start=None)
            after = {name.replace("pretrain", "again"): points for name, points in within.curves.items()}
            to_the_end.progress(5, 30)
            to_the_end.restore(after)
            sink.finish_on_close()
        assert "could not be sent" in caplog.text
        server.start()
        client = MlflowClient(tracking_uri=server.url)
        assert deliver_spooled(client)
        experiment = client.get_experiment_by_name(RUN.pipeline)
        assert experiment is not None
        [run] = client.search_runs([experiment.experiment_id])
        assert run.info.status == "FINISHED"
        for name, points in (within.curves | after).items():
            history = client.get_metric_history(run.info.run_id, name)
            assert [(p.step, p.value) for p in history] == points
    finally:
        server.stop()
