"""Carry out a person's answer to a verdict, if it came in time and the champion is still the same."""

from typing import Annotated

from zenml import ArtifactConfig, get_step_context, step

from materializers.report import ReportMaterializer
from ops.approval import answered_at, publish_outcome
from ops.gate import link_verdict
from ops.registries import policy_registry
from ops.tags import RUN_NAME_TAG
from rlhf.errors import PromotionError
from rlhf.registry.approval import ApprovalAnswer, answered, carried_out, resolve
from rlhf.registry.champion import ChampionRef
from rlhf.registry.gate_report import VerdictInputs, decision_of, expiry_of, verdict_report
from rlhf.registry.promotion import decision_tags
from rlhf.registry.seal import seal_problem, signing_key
from rlhf.registry.store import POLICY, Candidate, by_digest
from rlhf.registry.transaction import promote, settled_champion
from rlhf.report import Report


@step(enable_cache=False, output_materializers={"approval": ReportMaterializer})
def conclude_approval(
    verdict: Report, approve: bool, approver: str, reason: str
) -> Annotated[Report, ArtifactConfig(name="approval", tags=["report"])]:
    """The verdict with the answer to it, sealed anew, and carried out in both registries."""
    inputs = VerdictInputs.model_validate(verdict.data["inputs"])
    key = signing_key(inputs.settings.signing_key_env)
    if problem := seal_problem(verdict.data, key):
        raise PromotionError(f"{problem} It cannot be approved; run the gate again.")
    decision = decision_of(verdict.data)
    context = get_step_context()
    judged = context.inputs["verdict"][0]
    registry = policy_registry()
    current = settled_champion(registry)
    answer = ApprovalAnswer(approve=approve, approver=approver, reason=reason)
    reigning = current.as_champion() if current else ChampionRef()
    outcome = resolve(
        decision,
        answer,
        expires_at=expiry_of(verdict.data),
        answered_at=answered_at(context.pipeline_run),
        champion=decision.champion if carried_out(decision, answer, current) else reigning,
    )
    final = answered(decision, answer, outcome)
    report = verdict_report(final, inputs, key=key)
    version = by_digest(registry, POLICY, decision.candidate_digest)
    if version is None:
        raise PromotionError(
            f"Model {decision.candidate_digest[:12]} is no longer registered, so it cannot be promoted."
        )
    if final.promote:
        tags = {RUN_NAME_TAG: judged.run.name}
        candidate = Candidate(digest=version.digest, path=version.path, tags=tags)
        promote(registry, candidate, final, by=answer.approver, why=answer.reason)
    # A champion of the same weights was let pass by another answer, which stays on it.
    reigns = current is not None and current.version == version.version
    if not final.promote and not reigns:
        registry.set_tags(POLICY, version.version, decision_tags(final))
    if final.promote or not reigns:
        link_verdict(registry, version.version, report, context.pipeline_run.id, answered=True)
    publish_outcome(judged, outcome, final.summary)
    return report
