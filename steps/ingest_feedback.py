"""Bring the feedback ledger up to its sources, and pass on where it stands."""

from typing import Annotated

from zenml import ArtifactConfig, get_step_context, step

from materializers.ledger import LedgerRefMaterializer
from materializers.report import ReportMaterializer
from ops.continuation import pinned_feedback
from ops.ledger import with_ledger
from ops.stage import stage
from rlhf.feedback.ledger.ingest import ingest_into_ledger, stay_at
from rlhf.feedback.ledger.reference import LedgerRef
from rlhf.feedback.settings import FeedbackSettings
from rlhf.report import Report


# Never cached: what the sources hold is known only by looking. Equal rows have an equal content hash, so the
# steps behind this one still come from the cache.
@step(
    enable_cache=False,
    output_materializers={"feedback": LedgerRefMaterializer, "ingest_report": ReportMaterializer},
)
def ingest_feedback(
    settings: FeedbackSettings,
) -> tuple[
    Annotated[LedgerRef, ArtifactConfig(name="feedback", tags=["feedback"])],
    Annotated[Report, ArtifactConfig(name="ingest_report", tags=["report"])],
]:
    """The state of the annotation rows of all sources, and what came in, changed and was quarantined.

    A run that goes on with an interrupted one works with the feedback that it had, and reads no source.
    """
    with stage("feedback", settings) as run:
        pinned = pinned_feedback(get_step_context().pipeline_run)
        result = ingest_into_ledger(with_ledger(settings)) if pinned is None else stay_at(pinned)
        run.sink.log_text(result.report.html, "reports/ingest.html")
        return result.reference, result.report
