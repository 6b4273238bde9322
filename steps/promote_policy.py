"""Register the candidate and make it the champion if the gate lets it."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from zenml import ArtifactConfig, get_step_context, step

from materializers.report import ReportMaterializer
from ops.gate import link_verdict, verdict_inputs
from ops.promotion import candidate_of, close_tracking, publish_verdict
from ops.registries import patiently, policy_registry
from ops.stage import stage
from rlhf.models.directory import ModelDirectory
from rlhf.registry.champion import ChampionRef
from rlhf.registry.gate import decide
from rlhf.registry.gate_evidence import Evidence
from rlhf.registry.gate_report import verdict_report
from rlhf.registry.seal import signing_key
from rlhf.registry.settings import PromotionSettings
from rlhf.registry.transaction import promote
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
    """The verdict with every criterion's figure and reason, sealed, and carried out in both registries.

    In mode ``approval`` the candidate is registered and the verdict waits for a person, see ``ops.approval``.
    """
    with stage("promotion", settings) as run:
        evidence = Evidence.from_report(evaluation.data)
        decision = decide(evidence, settings, champion, candidate_digest=policy.digest)
        inputs = get_step_context().inputs
        candidate = candidate_of(policy, inputs["policy"][0], decision, evidence.metrics, run.sink)
        hours = timedelta(hours=settings.approval_hours)
        report = verdict_report(
            decision,
            verdict_inputs(candidate, champion, inputs["evaluation"][0], settings),
            key=signing_key(settings.signing_key_env),
            expires_at=datetime.now(UTC) + hours if decision.awaits_approval else None,
        )
        registry = policy_registry()
        # what an attempt that broke off has done already, the next one finds done
        outcome = patiently(lambda: promote(registry, candidate, decision), doing="The promotion")
        if outcome.action != "already_champion":  # the verdict that promoted it stays on the champion
            run_id = get_step_context().pipeline_run.id
            patiently(
                lambda: link_verdict(registry, outcome.version, report, run_id), doing="Linking the verdict"
            )
        run.sink.log_text(report.html, "reports/promotion.html")
        publish_verdict(run.sink, decision, outcome)
        close_tracking(run.sink)
        return report
