"""Read every feedback source into one canonical table of annotation rows."""

from typing import Annotated

from datasets import Dataset
from zenml import ArtifactConfig, step

from materializers.dataset import DatasetMaterializer
from materializers.report import ReportMaterializer
from ops.stage import stage
from rlhf.feedback.ingest import ingest
from rlhf.feedback.settings import FeedbackSettings
from rlhf.report import Report


# Never cached: what the sources hold is known only by looking. Equal rows have an equal content hash, so the
# steps behind this one still come from the cache.
@step(
    enable_cache=False,
    output_materializers={"feedback": DatasetMaterializer, "ingest_report": ReportMaterializer},
)
def ingest_feedback(
    settings: FeedbackSettings,
) -> tuple[
    Annotated[Dataset, ArtifactConfig(name="feedback", tags=["feedback"])],
    Annotated[Report, ArtifactConfig(name="ingest_report", tags=["report"])],
]:
    """Annotation rows of all sources, and what came in and what was quarantined."""
    with stage("feedback", settings) as run:
        result = ingest(settings)
        run.sink.log_text(result.report.html, "reports/ingest.html")
        return Dataset(result.table), result.report
