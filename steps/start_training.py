"""Start ``rlhf_pipeline`` on exactly the feedback that was judged, if the check asks for it."""

from typing import Annotated

from zenml import ArtifactConfig, step

from materializers.ledger import LedgerRefMaterializer  # noqa: F401  # reads the input
from ops.promotion import close_tracking
from ops.retraining import train_pinned
from ops.stage import stage
from rlhf.feedback.ledger.reference import LedgerRef
from rlhf.report import Report


# Never cached: starting a run is an effect.
@step(enable_cache=False)
def start_training(
    decision: Report, feedback: LedgerRef, config: str, overrides: list[str]
) -> Annotated[str, ArtifactConfig(name="training_run")]:
    """The name of the run that was started and has ended; empty when none was needed."""
    with stage("training") as run:
        name = train_pinned(feedback, config, overrides) if decision.data["needed"] else ""
        close_tracking(run.sink)
        return name
