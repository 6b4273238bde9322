"""Derive the training views from annotation rows: demonstrations, comparisons, ratings, prompts and text,
split by prompt."""

from typing import Annotated

from datasets import DatasetDict
from zenml import ArtifactConfig, step

from materializers.dataset import DatasetMaterializer
from materializers.ledger import LedgerRefMaterializer  # noqa: F401  # reads the input
from materializers.report import ReportMaterializer
from ops.cache import cached_by_content
from ops.stage import stage
from rlhf.feedback.ledger.reference import LedgerRef
from rlhf.feedback.ledger.state import read_state
from rlhf.feedback.settings import DatasetSettings, Judged
from rlhf.report import Report


@step(
    cache_policy=cached_by_content(__name__),
    output_materializers={
        "demonstrations": DatasetMaterializer,
        "comparisons": DatasetMaterializer,
        "ratings": DatasetMaterializer,
        "prompts": DatasetMaterializer,
        "text": DatasetMaterializer,
        "data_report": ReportMaterializer,
    },
)
def prepare_datasets(
    feedback: LedgerRef, settings: DatasetSettings, judged: Judged | None = None
) -> tuple[
    Annotated[DatasetDict, ArtifactConfig(name="demonstrations", tags=["view"])],
    Annotated[DatasetDict, ArtifactConfig(name="comparisons", tags=["view"])],
    Annotated[DatasetDict, ArtifactConfig(name="ratings", tags=["view"])],
    Annotated[DatasetDict, ArtifactConfig(name="prompts", tags=["view"])],
    Annotated[DatasetDict, ArtifactConfig(name="text", tags=["view"])],
    Annotated[Report, ArtifactConfig(name="data_report", tags=["report"])],
]:
    """The five views, each with train, dev and test splits, and the report of what was left out and why.

    ``judged``: the view that reward models are to learn from, which needs rows for each of them.
    """
    from rlhf.feedback.views import prepare, require_folds

    with stage("datasets", settings) as run:
        views = prepare(read_state(feedback), settings)
        run.sink.log_text(views.report.html, "reports/data.html")
        if judged is not None:  # after the report, which says what was left out
            require_folds(getattr(views, judged), judged)
        return (
            views.demonstrations,
            views.comparisons,
            views.ratings,
            views.prompts,
            views.text,
            views.report,
        )
