"""MLflow as a :class:`MetricSink`: one MLflow run for one pipeline run, and never an error into training.

ZenML's own tracker starts the run before a step's code and fails the step when MLflow is down. Here metrics
are buffered, sent in batches, kept while the server is away and spooled to disk if it stays away; what
could not be delivered is said at the end and sent by the next step that reaches the server.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mlflow.entities import LifecycleStage, Metric, Param, Run, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ops import environment

logger = logging.getLogger(__name__)

# MLflow opens with its pages for prompts and traces, unless a link asks for those for training.
TRAINING_PAGES = "workflowType=machine_learning"
RUN_TAG = "zenml.pipeline_run_id"
# What a tracking store raises when it cannot be reached or refuses; `requests` errors are OSErrors.
TRACKER_ERRORS = (MlflowException, OSError)
_BATCH = 200
_SECONDS_BETWEEN_FLUSHES = 2.0
_SECONDS_AFTER_FAILURE = 30.0
_PARAM_LENGTH = 6000  # MLflow's limit on a parameter's value
_PARAMS_PER_CALL = 100  # and on the parameters or tags of one call
# What MLflow would otherwise guess from the experiment's contents.
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}


@dataclass(frozen=True)
class PipelineRun:
    """The pipeline run that a sink reports for."""

    id: str
    name: str
    pipeline: str


def find_run(client: MlflowClient, run: PipelineRun, experiment_id: str) -> Run | None:
    """The MLflow run of a pipeline run, the earliest if parallel steps made two."""
    found = client.search_runs(
        [experiment_id],
        f"tags.`{RUN_TAG}` = '{run.id}'",
        order_by=["attributes.start_time ASC"],
        max_results=1,
    )
    return found[0] if found else None


def open_run(client: MlflowClient, run: PipelineRun, tags: Mapping[str, str]) -> Run:
    """Find or create the MLflow run of a pipeline run; two steps that start at once end up with the same
    one."""
    experiment = ensure_experiment(client, run.pipeline)
    if found := find_run(client, run, experiment):
        return found
    created = client.create_run(experiment, run_name=run.name, tags={RUN_TAG: run.id, **tags})
    first = find_run(client, run, experiment) or created
    if first.info.run_id != created.info.run_id:
        client.delete_run(created.info.run_id)
    return first


def ensure_experiment(client: MlflowClient, name: str) -> str:
    """The experiment's id; made with a local artifact folder when the store is a local database."""
    if found := client.get_experiment_by_name(name):
        if (
            found.lifecycle_stage == LifecycleStage.DELETED
        ):  # its name stays taken, and runs in it are refused
            client.restore_experiment(found.experiment_id)
        return found.experiment_id
    # With a database on local disk, MLflow would otherwise put artifacts into ./mlruns of the working folder.
    # A server decides for itself.
    local = mlflow_is_local(client)
    location = (environment.mlflow_artifacts() / name).as_uri() if local else None
    try:
        return client.create_experiment(name, artifact_location=location, tags=_EXPERIMENT_TAGS)
    except MlflowException:
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return found.experiment_id  # a parallel step made it meanwhile


def mlflow_is_local(client: MlflowClient) -> bool:
    """Whether the tracking store is a database file rather than a server."""
    return client.tracking_uri.startswith("sqlite:")


@dataclass
class MLflowSink:
    """Sends metrics, parameters, texts and tags of one stage to the MLflow run of its pipeline run.

    Everything goes through one queue of JSON-able entries, so that whatever cannot be sent now can be sent
    later, by this process or by another one from the spool file.
    """

    client: MlflowClient
    run: PipelineRun
    tags: Mapping[str, str]
    spool: Path
    console: Console | None = None
    seconds: float = 0.0
    """Time spent in calls to MLflow."""
    _queue: list[list[object]] = field(default_factory=list)
    _opened: Run | None = None
    _flushed: float = 0.0
    _not_before: float = 0.0
    _failures: list[str] = field(default_factory=list)
    _progress: Progress | None = None
    _finished: bool = False

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        self._queue += [["metric", name, float(value), now, step] for name, value in metrics.items()]
        if len(self._queue) >= _BATCH or time.monotonic() - self._flushed > _SECONDS_BETWEEN_FLUSHES:
            self.flush()

    def log_params(self, params: Mapping[str, object]) -> None:
        flat = (pair for name, value in params.items() for pair in _flatten(name, value))
        self._queue += [["param", name, _shorten(value)] for name, value in flat]

    def log_text(self, text: str, name: str) -> None:
        self._queue.append(["text", text, name])

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Tag the MLflow run."""
        self._queue += [["tag", name, value] for name, value in tags.items()]

    def progress(self, done: int, total: int, note: str = "") -> None:
        if self.console is None:
            return
        if self._progress is None:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._progress.start()
            self._progress.add_task(note, total=total)
        self._progress.update(self._progress.task_ids[0], completed=done, total=total, description=note)

    @property
    def opened(self) -> Run | None:
        """The MLflow run, or ``None`` while the server is away."""
        if self._opened is None and time.monotonic() >= self._not_before:
            self._attempt(self._open)
        return self._opened

    def flush(self) -> None:
        """Send what is queued; what fails stays queued for a later attempt."""
        self._flushed = time.monotonic()
        if self._flushed < self._not_before or not self._queue or self.opened is None:
            return
        while self._queue:
            batch = self._queue[:_BATCH]
            outcome = self._attempt(lambda batch=batch: self._send(batch))
            if outcome == "away":
                return
            if outcome == "refused" and len(batch) > 1:
                # One entry is at fault, and the others must not go with it.
                for entry in batch:
                    if self._attempt(lambda entry=entry: self._send([entry])) == "away":
                        return
                    del self._queue[0]
            else:
                del self._queue[: len(batch)]

    def close(self) -> None:
        """Deliver or spool what is left, and say what could not be delivered."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        self._not_before = 0.0
        self.flush()
        if self._queue:
            self.spool.parent.mkdir(parents=True, exist_ok=True)
            with self.spool.open("a") as stream:
                stream.writelines(json.dumps(entry) + "\n" for entry in self._queue)
            logger.warning(
                "%d entries could not be sent to MLflow (%s); they wait in %s and are sent by the next step "
                "of this run that reaches the server.",
                len(self._queue),
                "; ".join(dict.fromkeys(self._failures)),
                self.spool,
            )
            self._queue.clear()
        if self._finished and self._opened is not None:
            run_id = self._opened.info.run_id
            self._attempt(lambda: finish_run(self.client, run_id, failed=False))

    def finish_on_close(self) -> None:
        """End the MLflow run as finished when this sink closes: the pipeline run's last step calls it."""
        self._finished = True

    def take_spooled(self) -> None:
        """Queue what an earlier step of this pipeline run had to leave on disk."""
        if self.spool.exists():
            self._queue += [json.loads(line) for line in self.spool.read_text().splitlines()]
            self.spool.unlink()

    def _open(self) -> None:
        self._opened = open_run(self.client, self.run, self.tags)

    def _send(self, entries: list[list[object]]) -> None:
        run_id = self._opened.info.run_id  # type: ignore[union-attr]  # flush() checks it
        metrics = [Metric(*entry[1:]) for entry in entries if entry[0] == "metric"]
        params = [Param(*entry[1:]) for entry in entries if entry[0] == "param"]
        tags = [RunTag(*entry[1:]) for entry in entries if entry[0] == "tag"]
        for start in range(0, len(params), _PARAMS_PER_CALL):
            self.client.log_batch(run_id, params=params[start : start + _PARAMS_PER_CALL])
        if metrics:
            self.client.log_batch(run_id, metrics=metrics)
        for start in range(0, len(tags), _PARAMS_PER_CALL):
            self.client.log_batch(run_id, tags=tags[start : start + _PARAMS_PER_CALL])
        for entry in entries:
            if entry[0] == "text":
                self.client.log_text(run_id, str(entry[1]), str(entry[2]))

    def _attempt(self, call: Callable[[], None]) -> Literal["done", "refused", "away"]:
        started = time.monotonic()
        try:
            call()
        except TRACKER_ERRORS as error:
            self._failures.append(str(error).splitlines()[0][:300])
            if self._opened is not None and isinstance(error, MlflowException) and _refused(error):
                logger.warning("MLflow refused an entry: %s", self._failures[-1])
                return "refused"
            self._not_before = time.monotonic() + _SECONDS_AFTER_FAILURE
            return "away"
        finally:
            self.seconds += time.monotonic() - started
        return "done"


def _refused(error: MlflowException) -> bool:
    """Whether the entry itself is at fault (a parameter given twice with two values), so that sending it
    again is vain; not so for a login that has run out or a server that is busy."""
    status = error.get_http_status_code()
    return 400 <= status < 500 and status not in {401, 403, 408, 429}


def _flatten(name: str, value: object) -> Iterator[tuple[str, object]]:
    """One parameter for each setting of a nested group; a setting that is not made is not shown."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flatten(f"{name}/{key}", inner)
    elif value is not None:
        yield name, value


def _shorten(value: object) -> str:
    text = str(value)
    return text if len(text) <= _PARAM_LENGTH else text[: _PARAM_LENGTH - 1] + "…"


@contextmanager
def mlflow_sink(
    tracking_uri: str, run: PipelineRun, tags: Mapping[str, str], console: Console | None = None
) -> Iterator[MLflowSink]:
    """A sink for one stage of a pipeline run, closed at the end. Never fails for the tracker's sake."""
    spool = environment.home() / "spool" / f"{run.id}.jsonl"
    sink = MLflowSink(MlflowClient(tracking_uri=tracking_uri), run, tags, spool, console)
    sink.take_spooled()
    try:
        yield sink
    finally:
        sink.close()


def finish_run(client: MlflowClient, run_id: str, *, failed: bool) -> None:
    """End an MLflow run with the pipeline run's outcome."""
    client.set_terminated(run_id, RunStatus.to_string(RunStatus.FAILED if failed else RunStatus.FINISHED))


def run_url(tracking_uri: str, run: Run) -> str:
    """Where a browser finds the run: on its server, or where `rlhf ui` serves the local database."""
    page = f"/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}?{TRAINING_PAGES}"
    return (tracking_uri.rstrip("/") if tracking_uri.startswith("http") else environment.MLFLOW_UI) + page
