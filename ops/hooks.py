"""ZenML hooks: what happens beside a run when a step ends badly."""

import logging

from mlflow.tracking import MlflowClient
from zenml import get_step_context

from ops.alerts import alert
from ops.stage import tracking_uri
from ops.tracking import TRACKER_ERRORS, PipelineRun, ensure_experiment, find_run, finish_run
from rlhf.errors import AgreementError

logger = logging.getLogger(__name__)


def mark_run_failed(error: BaseException) -> None:
    """End the MLflow run of a failed pipeline run as failed, with the error as a tag, and tell people."""
    context = get_step_context()
    collapsed = isinstance(error, AgreementError)
    alert(
        "agreement_collapsed" if collapsed else "run_failed",
        "Annotators do not agree" if collapsed else f"{context.pipeline.name} failed",
        f"{context.step_name}: {error}",
    )
    uri = tracking_uri()
    if uri is None:
        return
    client = MlflowClient(tracking_uri=uri)
    run = PipelineRun(str(context.pipeline_run.id), context.pipeline_run.name, context.pipeline.name)
    try:
        found = find_run(client, run, ensure_experiment(client, run.pipeline))
        if found is not None:
            client.set_tag(found.info.run_id, "error", f"{context.step_name}: {error}"[:500])
            finish_run(client, found.info.run_id, failed=True)
    except TRACKER_ERRORS as failure:
        logger.warning("MLflow could not be told of the failure (%s).", failure)
