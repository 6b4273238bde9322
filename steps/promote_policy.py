"""Register the candidate and make it the champion if the gate lets it."""

from typing import Annotated

from zenml import ArtifactConfig, get_step_context, step

from materializers.report import ReportMaterializer
from ops.promotion import candidate_of, close_tracking, publish_verdict
from ops.registries import patiently, policy_registry
from ops.stage import stage
from rlhf.models.directory import ModelDirectory
from rlhf.registry.champion import ChampionRef
from rlhf.registry.promotion import decide, decision_report, promote
from rlhf.registry.settings import PromotionSettings
from rlhf.report import Report


# Never cached: registering is an effect, and the registry may have changed since.
@step(enable_cache=False, output_materializers={"promotion": ReportMaterializer})
def promote_policy(
    policy: ModelDirectory,
    proxy: ModelDirectory,
    evaluation: Report,
    champion: ChampionRef,
    settings: PromotionSettings,
) -> Annotated[Report, ArtifactConfig(name="promotion", tags=["report"])]:
    """The verdict with every criterion's figure and reason, carried out in both registries."""
    with stage("promotion", settings) as run:
        metrics = evaluation.data["metrics"]
        decision = decide(metrics, settings, champion, candidate_digest=policy.digest)
        artifact = get_step_context().inputs["policy"][0]
        candidate = candidate_of(policy, artifact, decision, metrics, run.sink)
        # what an attempt that broke off has done already, the next one finds done
        outcome = patiently(lambda: promote(policy_registry(), candidate, decision), doing="The promotion")
        report = decision_report(decision)
        run.sink.log_text(report.html, "reports/promotion.html")
        publish_verdict(run.sink, decision, outcome)
        close_tracking(run.sink)
        return report
