"""Decide whether what came in since the champion was trained is worth a training run."""

from typing import Annotated

from zenml import ArtifactConfig, step

from materializers.ledger import LedgerRefMaterializer  # noqa: F401  # reads the input
from materializers.report import ReportMaterializer
from ops.retraining import publish_decision, situation_of
from ops.stage import stage
from rlhf.feedback.ledger.reference import LedgerRef
from rlhf.feedback.settings import DatasetSettings
from rlhf.registry.champion import ChampionRef
from rlhf.report import Report
from rlhf.retraining.decision import decide, decision_report
from rlhf.retraining.settings import RetrainingSettings


# Never cached: the champion grows older, and other runs may have trained on the same feedback.
@step(enable_cache=False, output_materializers={"retraining_decision": ReportMaterializer})
def decide_retraining(
    feedback: LedgerRef, champion: ChampionRef, datasets: DatasetSettings, settings: RetrainingSettings
) -> Annotated[Report, ArtifactConfig(name="retraining_decision", tags=["report"])]:
    """The decision, its reason, and the figures that it rests on."""
    with stage("retraining", settings) as run:
        situation = situation_of(feedback, champion, datasets, settings)
        decision = decide(situation, settings)
        report = decision_report(decision, situation, settings)
        run.sink.log_text(report.html, "reports/retraining.html")
        publish_decision(run.sink, decision)
        return report
