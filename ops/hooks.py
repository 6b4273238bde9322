"""ZenML hooks: what happens beside a run when a step ends badly."""

from mlflow.entities import RunStatus
from zenml import get_step_context, log_metadata
from zenml.exceptions import RunInterruptedException

from ops.alerts import alert
from ops.continuation import INTERRUPTED
from ops.stage import tracked_run, tracking_uri
from ops.tracking import mlflow_sink
from rlhf.errors import AgreementError, InterruptedRunError


def mark_run_failed(error: BaseException) -> None:
    """End the MLflow run of a failed pipeline run as failed, with the error as a tag; of one that was asked
    to stop as killed, and mark it as one to go on with. People are told of a failure."""
    context = get_step_context()
    stopped = isinstance(error, InterruptedRunError | RunInterruptedException | KeyboardInterrupt)
    if stopped:
        log_metadata(metadata={INTERRUPTED: str(error)}, run_id_name_or_prefix=context.pipeline_run.id)
    else:
        collapsed = isinstance(error, AgreementError)
        alert(
            "agreement_collapsed" if collapsed else "run_failed",
            "Annotators do not agree" if collapsed else f"{context.pipeline.name} failed",
            f"{context.step_name}: {error}",
        )
    uri = tracking_uri()
    if uri is None:
        return
    with mlflow_sink(uri, tracked_run(context), {}) as sink:
        sink.set_tags({"error": f"{context.step_name}: {error}"[:500]})
        sink.end(RunStatus.KILLED if stopped else RunStatus.FAILED)
