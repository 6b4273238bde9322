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
from typing import Any, Literal
from uuid import uuid4

from mlflow.entities import LifecycleStage, Metric, Param, Run, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ops import environment
from ops.tags import PIPELINE_RUN_TAG

logger = logging.getLogger(__name__)

# MLflow opens with its pages for prompts and traces, unless a link asks for those for training.
TRAINING_PAGES = "workflowType=machine_learning"
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
    """Of the first run, where one goes on with another."""
    name: str
    pipeline: str
    continued: bool = False
    """An interrupted run goes on: its MLflow run is reopened, and what it has already is not logged again."""


def find_run(client: MlflowClient, run: PipelineRun, experiment_id: str) -> Run | None:
    """The MLflow run of a pipeline run, the earliest if parallel steps made two."""
    found = client.search_runs(
        [experiment_id],
        f"tags.`{PIPELINE_RUN_TAG}` = '{run.id}'",
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
    created = client.create_run(experiment, run_name=run.name, tags={PIPELINE_RUN_TAG: run.id, **tags})
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
    console: Console | None = None
    once: bool = False
    """Log a metric only at steps that it has no value at yet."""
    seconds: float = 0.0
    """Time spent in calls to MLflow."""
    _queue: list[list[object]] = field(default_factory=list)
    _opened: Run | None = None
    _flushed: float = 0.0
    _not_before: float = 0.0
    _failures: list[str] = field(default_factory=list)
    _progress: Progress | None = None
    _finished: bool = False
    _steps: dict[str, set[int]] = field(default_factory=dict)

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
        if self._finished:
            self.end(RunStatus.FINISHED)
        self._not_before = 0.0
        self.flush()
        if self._queue:
            spool = _write_spool(self.run, self.tags, self._queue)
            logger.warning(
                "%d entries could not be sent to MLflow (%s); they wait in %s and are sent by the next step "
                "or run that reaches the server.",
                len(self._queue),
                "; ".join(dict.fromkeys(self._failures)),
                spool,
            )
            self._queue.clear()

    def end(self, status: int) -> None:
        """End the MLflow run with one of ``RunStatus``, after all that is queued."""
        self._queue.append(["end", RunStatus.to_string(status)])

    def deliver(self, entries: list[list[object]]) -> bool:
        """Send entries at once; whether the server took them."""
        self._queue += entries
        self.flush()
        return not self._queue

    def wait(self) -> None:
        """Leave the server alone for a while: it was away just now."""
        self._not_before = time.monotonic() + _SECONDS_AFTER_FAILURE

    def finish_on_close(self) -> None:
        """End the MLflow run as finished when this sink closes: the pipeline run's last step calls it."""
        self._finished = True

    def _open(self) -> None:
        opened = open_run(self.client, self.run, self.tags)
        if self.run.continued and opened.info.status != RunStatus.to_string(RunStatus.RUNNING):
            self.client.update_run(opened.info.run_id, status=RunStatus.to_string(RunStatus.RUNNING))
            tags = [RunTag(name, value) for name, value in self.tags.items()]
            self.client.log_batch(opened.info.run_id, tags=tags)  # the newest run's name and page
        self._opened = opened

    def _send(self, entries: list[list[object]]) -> None:
        run_id = self._opened.info.run_id  # type: ignore[union-attr]  # flush() checks it
        metrics = [Metric(*entry[1:]) for entry in entries if entry[0] == "metric"]
        params = [Param(*entry[1:]) for entry in entries if entry[0] == "param"]
        tags = [RunTag(*entry[1:]) for entry in entries if entry[0] == "tag"]
        for start in range(0, len(params), _PARAMS_PER_CALL):
            self.client.log_batch(run_id, params=params[start : start + _PARAMS_PER_CALL])
        if self.once:
            new = {(m.key, m.step): m for m in metrics if m.step not in self._known_steps(m.key)}
            metrics = list(new.values())
        if metrics:
            self.client.log_batch(run_id, metrics=metrics)
        if self.once:
            for metric in metrics:
                self._steps[metric.key].add(metric.step)
        for start in range(0, len(tags), _PARAMS_PER_CALL):
            self.client.log_batch(run_id, tags=tags[start : start + _PARAMS_PER_CALL])
        for entry in entries:
            if entry[0] == "text":
                self.client.log_text(run_id, str(entry[1]), str(entry[2]))
            elif entry[0] == "end":
                self.client.set_terminated(run_id, str(entry[1]))

    def _known_steps(self, key: str) -> set[int]:
        if key not in self._steps:
            run_id = self._opened.info.run_id  # type: ignore[union-attr]  # flush() checks it
            self._steps[key] = {point.step for point in self.client.get_metric_history(run_id, key)}
        return self._steps[key]

    def _attempt(self, call: Callable[[], None]) -> Literal["done", "refused", "away"]:
        started = time.monotonic()
        try:
            call()
        except TRACKER_ERRORS as error:
            self._failures.append(str(error).splitlines()[0][:300])
            if self._opened is not None and isinstance(error, MlflowException) and _refused(error):
                logger.warning("MLflow refused an entry: %s", self._failures[-1])
                return "refused"
            self.wait()
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
    client = MlflowClient(tracking_uri=tracking_uri)
    reached = deliver_spooled(client, run.id)
    sink = MLflowSink(client, run, tags, console, once=run.continued)
    if not reached:
        sink.wait()
    try:
        yield sink
    finally:
        sink.close()


def deliver_spooled(client: MlflowClient, run_id: str = "") -> bool:
    """Send what steps had to leave on disk.

    Args:
        run_id: of one pipeline run; by default of all.

    Returns:
        Whether nothing is left. What is stays on disk.
    """
    for path in sorted(_spool_folder().glob(f"{run_id}*.jsonl")):
        # Under a name of its own: a step that ends meanwhile writes to the other one.
        taken = path.with_name(f"{path.name.split('.')[0]}.{uuid4().hex}.jsonl")
        try:
            path.rename(taken)
        except FileNotFoundError:
            continue  # another process was first
        entries = list(_complete_lines(taken))
        [_, run, name, pipeline, tags] = entries[0]
        sink = MLflowSink(client, PipelineRun(run, name, pipeline), tags, once=True)
        if not sink.deliver([entry for entry in entries if entry[0] != "run"]):
            return False
        taken.unlink()
    return True


def _write_spool(run: PipelineRun, tags: Mapping[str, str], entries: list[list[object]]) -> Path:
    path = _spool_folder() / f"{run.id}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    header: list[object] = ["run", run.id, run.name, run.pipeline, dict(tags)]
    with path.open("a", encoding="utf-8") as stream:
        stream.write("".join(json.dumps(entry) + "\n" for entry in [header, *entries]))
    return path


def _complete_lines(path: Path) -> Iterator[list[Any]]:
    """Entries of a spool file; the process may have been killed within the last one."""
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            logger.warning("%s ends within an entry, which is left out.", path)


def _spool_folder() -> Path:
    return environment.home() / "spool"


def run_url(tracking_uri: str, run: Run) -> str:
    """Where a browser finds the run: on its server, or where `rlhf ui` serves the local database."""
    page = f"/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}?{TRAINING_PAGES}"
    return (tracking_uri.rstrip("/") if tracking_uri.startswith("http") else environment.MLFLOW_UI) + page


def tracker_may_return(error: Exception) -> bool:
    """Whether a call to the tracking server failed for a reason that passes by itself."""
    if isinstance(error, MlflowException):
        return not _refused(error) and error.get_http_status_code() not in {401, 403}
    return isinstance(error, OSError)
