"""Model cards from the lineage of a run: what its steps put out and were told, as ZenML recorded it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from zenml.client import Client
from zenml.models import ArtifactVersionResponse, PipelineRunResponse

from ops.code_version import code_version
from rlhf.feedback.settings import FeedbackSettings
from rlhf.models.directory import ModelDirectory
from rlhf.registry.model_card import Lineage, model_card, worst_answers
from rlhf.registry.promotion import PromotionDecision
from rlhf.report import Report

CARD = "model_card.md"
"""File beside the model's directory, whose digest it is no part of."""
_DATA = ("feedback", "demonstrations", "comparisons", "ratings", "prompts")


def lineage_of(run: PipelineRunResponse, runs: Mapping[str, str]) -> Lineage:
    """What the models of a run come from.

    Args:
        runs: label → name or id of the runs to show.
    """
    models: dict[str, str] = {}
    data: dict[str, str] = {}
    for name, step in run.steps.items():
        for output, versions in step.outputs.items():
            target = data if output in _DATA else models if _is_model(versions) else None
            if target is not None and versions and versions[0].content_hash:
                target[output if target is data else name] = versions[0].content_hash
    return Lineage(
        models=models,
        data=data,
        code=code_version(),
        runs=runs,
        licences=_licences(run),
        annotators=_annotators(_report(run, "data_report")),
    )


def policy_card(
    run: PipelineRunResponse,
    policy: ModelDirectory,
    decision: PromotionDecision,
    metrics: Mapping[str, float],
    lineage: Lineage,
) -> str:
    """The card of a policy, with its decision and what is known to go wrong."""
    evaluation = _report(run, "evaluation")
    return model_card(
        "policy",
        policy.digest,
        lineage,
        metrics,
        decision=decision,
        worst=worst_answers(evaluation.get("samples", []), list(evaluation.get("rewards", {}))),
        settings=policy.training,
    )


def reward_model_card(role: str, model: ArtifactVersionResponse, lineage: Lineage) -> str:
    """The card of a reward model, with the figures of its training."""
    figures = {
        name: float(value)
        for name, value in model.run_metadata.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    return model_card(
        f"reward-model ({role})",
        str(model.content_hash),
        lineage,
        figures,
        about=f"A reward model trained from comparisons or ratings; here it is the {role}.",
        task="text-classification",
    )


def write_card(artifact: ArtifactVersionResponse, card: str) -> str:
    """Put a card beside the model directory of an artifact.

    Returns:
        Where it lies.
    """
    store = Client().active_stack.artifact_store
    target = f"{artifact.uri.rstrip('/')}/{CARD}"
    with store.open(f"{target}.partial", "w") as stream:
        stream.write(card)
    store.rename(f"{target}.partial", target, overwrite=True)
    return target


def read_card(model_path: str) -> str | None:
    """The card beside a registered model's directory; ``None`` where there is none."""
    target = f"{model_path.rstrip('/').rpartition('/')[0]}/{CARD}"
    if "://" not in target:
        file = Path(target)
        return file.read_text(encoding="utf-8") if file.is_file() else None
    store = Client().active_stack.artifact_store
    if not store.exists(target):
        return None
    with store.open(target, "r") as stream:
        return str(stream.read())


def _licences(run: PipelineRunResponse) -> dict[str, str]:
    step = run.steps.get("ingest_feedback")
    if step is None:
        return {}
    try:
        settings = FeedbackSettings.model_validate(step.config.parameters["settings"])
    except (KeyError, ValidationError):  # a run of an older version
        return {}
    return {source.source_name: source.license or "not stated" for source in settings.sources}


def _annotators(data: Mapping[str, Any]) -> dict[str, str]:
    told = {}
    for question in data.get("annotators", []):
        said = f"{len(question['annotators'])} annotators, {question['judgements']:,} judgements"
        if (agreement := question.get("agreement")) is not None:
            interval = agreement["interval"]
            said += (
                f", Krippendorff's alpha {agreement['alpha']:.2f} [{interval['low']:.2f}, "
                f"{interval['high']:.2f}]"
            )
        told[f"{question['source']}: {question['question'] or question['kind']}"] = said
    return told


def _report(run: PipelineRunResponse, output: str) -> Mapping[str, Any]:
    """The figures of a report of a run; empty if it has none."""
    for step in run.steps.values():
        for artifact in step.outputs.get(output, []):
            loaded = artifact.load()
            if isinstance(loaded, Report):
                return loaded.data
    return {}


def _is_model(versions: Sequence[ArtifactVersionResponse]) -> bool:
    return bool(versions) and versions[0].type.value == "model"
