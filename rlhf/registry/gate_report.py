"""The verdict as an artifact: a page for people, and the sealed record behind it."""

from collections.abc import Mapping
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from rlhf.registry.promotion import CriterionResult, PromotionDecision
from rlhf.registry.seal import SEAL, sealed
from rlhf.registry.settings import PromotionSettings
from rlhf.report import Cell, Report, ReportBuilder


class VerdictInputs(BaseModel):
    """What a verdict rests on, by content: whoever has the same can make the same verdict."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    candidate: str
    """Digest of the policy's directory."""
    champion: str | None
    """Digest of the champion's, ``None`` without one."""
    evaluation: str
    """Content hash of the evaluation report."""
    data: Mapping[str, str] = {}
    """Content hash of each dataset of the run, by artifact name."""
    settings: PromotionSettings
    """The gate's own."""


def verdict_report(
    decision: PromotionDecision,
    inputs: VerdictInputs,
    *,
    key: bytes | None = None,
    expires_at: datetime | None = None,
) -> Report:
    """The decision with its inputs, sealed; ``data`` is the record.

    Args:
        key: signs the record, see :mod:`rlhf.registry.seal`.
        expires_at: until when it may be approved, if it waits for a person.
    """
    record = decision.model_dump(mode="json")
    record |= {"promote": decision.promote, "summary": decision.summary}
    record["inputs"] = inputs.model_dump(mode="json")
    record["expires_at"] = expires_at.isoformat() if expires_at else None
    builder = ReportBuilder("Promotion decision", decision.summary, data=sealed(record, key))
    if decision.mode == "dry_run":
        builder.note("This is a dry run: the registry is left as it is (promotion.mode: dry_run).")
    if expires_at is not None:
        builder.note(
            f"It may be approved until {expires_at:%Y-%m-%d %H:%M} UTC; without an answer it is not promoted."
        )
    _criteria(builder, "Required criteria", [r for r in decision.reasons if r.required])
    _criteria(builder, "Findings, which decide nothing", [r for r in decision.reasons if not r.required])
    builder.heading("Models")
    champion = decision.champion
    builder.table(
        ["role", "version", "digest"],
        [
            ["candidate", None, decision.candidate_digest],
            ["champion", champion.version or "none", champion.digest],
        ],
    )
    builder.heading("Inputs and seal")
    seal = builder.data[SEAL]
    builder.table(
        ["what", "digest"],
        [
            ["evaluation", inputs.evaluation],
            *([name, digest] for name, digest in sorted(inputs.data.items())),
            *([f"verdict, {name}", digest] for name, digest in seal.items()),
        ],
    )
    return builder.build()


def decision_of(record: Mapping[str, object]) -> PromotionDecision:
    """The decision in a sealed record."""
    return PromotionDecision.model_validate(
        {n: record[n] for n in PromotionDecision.model_fields if n in record}
    )


def expiry_of(record: Mapping[str, object]) -> datetime:
    """Until when a record that awaits approval may be approved."""
    return datetime.fromisoformat(str(record["expires_at"]))


def _criteria(builder: ReportBuilder, title: str, results: list[CriterionResult]) -> None:
    if not results:
        return
    builder.heading(title)
    columns = [
        "criterion",
        "outcome",
        "value",
        "interval",
        "p",
        "prompts",
        "power",
        "prompts needed",
        "reason",
    ]
    builder.table(columns, [_row(r) for r in results])
    builder.note(
        "Power is the chance to have found the effect that the criterion looks for. Prompts needed: to find "
        "that effect / to find the observed one."
    )


def _row(result: CriterionResult) -> list[Cell]:
    interval = None if result.low is None else f"{result.low:.4g} to {result.high:.4g}"
    needed = [str(n) if n is not None else "–" for n in (result.needed, result.needed_observed)]
    p_value = result.p_value if result.p_adjusted is None else result.p_adjusted
    return [
        f"{result.metric} ({result.test.replace('_', '-')})",
        result.outcome.replace("_", " "),
        result.value,
        interval,
        p_value,
        result.prompts,
        result.power,
        " / ".join(needed) if needed != ["–", "–"] else None,
        result.reason,
    ]
