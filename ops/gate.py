"""The verdict in its surroundings: the artifacts it rests on, its traces in the registries, and whether they
still agree."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from zenml.client import Client
from zenml.enums import MetadataResourceTypes
from zenml.models import (
    ArtifactVersionResponse,
    ModelVersionResponse,
    PipelineRunResponse,
    RunMetadataResource,
)
from zenml.utils.pagination_utils import depaginate

from materializers.report import report_digest
from ops.registries import MLflowRegistry, policy_registry
from ops.tags import APPROVAL_RUN_TAG, APPROVAL_SEAL_TAG, SEAL_TAG, VERDICT_RUN_TAG
from rlhf.errors import PromotionError, RLHFError
from rlhf.models.directory import directory_digest
from rlhf.registry.champion import ChampionRef
from rlhf.registry.gate_report import VerdictInputs
from rlhf.registry.seal import SEAL, seal_problem, signing_key
from rlhf.registry.settings import PromotionSettings
from rlhf.registry.store import POLICY, Candidate, by_digest
from rlhf.report import Report

PROMOTE_STEP = "promote_policy"
_DATA_TAG = "data."


@dataclass(frozen=True)
class Check:
    """One thing that was compared; ``problem`` is ``None`` where both sides agree."""

    what: str
    problem: str | None


def verdict_inputs(
    candidate: Candidate,
    champion: ChampionRef,
    evaluation: ArtifactVersionResponse,
    settings: PromotionSettings,
) -> VerdictInputs:
    """What a verdict on this candidate rests on, by content."""
    tags = candidate.tags.items()
    return VerdictInputs(
        candidate=candidate.digest,
        champion=champion.digest,
        evaluation=str(evaluation.content_hash),
        data={name.removeprefix(_DATA_TAG): value for name, value in tags if name.startswith(_DATA_TAG)},
        settings=settings,
    )


def link_verdict(
    registry: MLflowRegistry, version: str | None, report: Report, run: UUID, *, answered: bool = False
) -> None:
    """Write the verdict's digest to the candidate's version in both registries; nothing after a dry run.

    Args:
        run: the pipeline run that came to it, or that carried out a person's answer.
        answered: whether the verdict holds that answer.
    """
    tag, run_tag = (APPROVAL_SEAL_TAG, APPROVAL_RUN_TAG) if answered else (SEAL_TAG, VERDICT_RUN_TAG)
    if version is None:
        return
    seal = report.data[SEAL]["sha256"]
    registry.set_tags(POLICY, version, {tag: seal, run_tag: str(run)})
    counterpart = _counterpart(str(report.data["candidate_digest"]))
    if counterpart is None:
        return
    shown = {tag: seal, "promotion.verdict": report.data["verdict"], "promotion": report.data["summary"]}
    Client().create_run_metadata(
        shown, [RunMetadataResource(id=counterpart.id, type=MetadataResourceTypes.MODEL_VERSION)]
    )


def find_run(name_or_id: str) -> PipelineRunResponse:
    """A pipeline run by its whole name, or by an id or the beginning of one.

    Raises:
        PromotionError: there is none.
    """
    client = Client()
    # ZenML's own look-up by name also takes the beginning of another run's name.
    if named := client.list_pipeline_runs(name=f"equals:{name_or_id}", hydrate=True).items:
        return named[0]
    try:
        return client.get_pipeline_run(name_or_id, allow_name_prefix_match=False)
    except (KeyError, ValueError) as error:
        raise PromotionError(f"There is no run {name_or_id!r}; `rlhf runs` lists them.") from error


def verdict_artifact(run: PipelineRunResponse) -> ArtifactVersionResponse:
    """The verdict of a run.

    Raises:
        PromotionError: the run has none.
    """
    step = run.steps.get(PROMOTE_STEP)
    if step is None or not step.outputs.get("promotion"):
        raise PromotionError(f"The run {run.name} has no verdict: its gate did not run or did not finish.")
    return step.outputs["promotion"][0]


def verdict_record(run: PipelineRunResponse) -> dict[str, Any]:
    """The sealed record of a run's verdict.

    Raises:
        PromotionError: the run has none.
    """
    report = verdict_artifact(run).load()
    if not isinstance(report, Report) or SEAL not in report.data:
        raise PromotionError(f"The verdict of {run.name} is not sealed; it was made by an earlier version.")
    return dict(report.data)


def verify(run: PipelineRunResponse) -> list[Check]:
    """Compare a run's verdict with its seal, with the present content of the artifacts it speaks of and with
    both registries.

    The key is taken from the environment variable that the gate's settings named.

    Raises:
        PromotionError: the run has no sealed verdict.
        ConfigError: the key's variable is not set.
    """
    record = verdict_record(run)
    inputs = VerdictInputs.model_validate(record["inputs"])
    key = signing_key(inputs.settings.signing_key_env)
    checks = [Check("signature" if key else "digest", seal_problem(record, key))]
    taken = run.steps[PROMOTE_STEP].inputs
    for name, sealed in (("policy", inputs.candidate), ("evaluation", inputs.evaluation)):
        checks.append(_compare(f"artifact {name}", sealed, _content(taken[name][0])))
    champion = taken["champion"][0].load() if taken.get("champion") else ChampionRef()
    checks.append(_compare("champion", inputs.champion, champion.digest))
    return [*checks, *_registry_checks(record)]


def _registry_checks(record: dict[str, Any]) -> list[Check]:
    if record["mode"] == "dry_run" or record["verdict"] == "already_champion":
        return []  # it left nothing there
    registry = policy_registry()
    version = by_digest(registry, POLICY, record["candidate_digest"])
    if version is None:
        return [Check("registered version", "the candidate is not registered.")]
    seal = record[SEAL]["sha256"]
    counterpart = _counterpart(version.digest)
    mirrored = counterpart.run_metadata.get(SEAL_TAG) if counterpart else None
    # A later run that came to the same weights leaves its own verdict there.
    return [
        _compare(f"MLflow version {version.version}, verdict", seal, version.tags.get(SEAL_TAG)),
        _compare("ZenML model version, verdict", seal, mirrored),
    ]


def _content(artifact: ArtifactVersionResponse) -> str:
    """Digest of what lies in the artifact store now."""
    try:
        found = artifact.load(disable_cache=True)
    except (RLHFError, OSError, ValueError):  # gone, or no longer what its materializer wrote
        return "nothing that can be read"
    return report_digest(found) if isinstance(found, Report) else directory_digest(found.path)


def _counterpart(digest: str) -> ModelVersionResponse | None:
    """ZenML's version of a policy, by its content."""
    client = Client()
    models = client.list_models(name=f"equals:{POLICY}").items
    if not models:
        return None
    versions = depaginate(client.list_model_versions, model=models[0].id, hydrate=True)
    return next((v for v in versions if v.description == digest), None)


def _compare(what: str, sealed: object, found: object) -> Check:
    problem = None if sealed == found else f"the verdict says {sealed!s:.12}, but there is {found!s:.24}."
    return Check(what, problem)
