"""The model card of a registered version: short Markdown that says what it is, where it comes from and what
was measured. Everything in it is taken from lineage and figures; prose about the project belongs in the docs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from huggingface_hub import ModelCardData

from rlhf.registry.promotion import PromotionDecision

Facts = Mapping[str, str]


@dataclass(frozen=True)
class Lineage:
    """What a model was made from, as label to identity, in the order in which a reader should meet it."""

    models: Facts = field(default_factory=dict)
    """Models it was trained from or against, such as ``{"SFT policy": digest}``."""
    data: Facts = field(default_factory=dict)
    """Dataset versions, such as ``{"feedback ledger": "version 12"}``."""
    code: Facts = field(default_factory=dict)
    """Commit and versions of the libraries."""
    runs: Facts = field(default_factory=dict)
    """Name of each run to its URL or id."""


def model_card(
    name: str,
    digest: str,
    lineage: Lineage,
    metrics: Mapping[str, float],
    *,
    decision: PromotionDecision | None = None,
    metric_names: tuple[str, ...] | None = None,
) -> str:
    """The card as Markdown with the metadata block that the Hugging Face hub reads.

    Args:
        metrics: flat figures of the evaluation.
        metric_names: the figures to show, in this order (absent ones are left out); all by default.
    """
    header = ModelCardData(
        model_name=name, library_name="transformers", pipeline_tag="text-generation", tags=["rlhf"]
    ).to_yaml()
    shown = [n for n in (metric_names or tuple(sorted(metrics))) if n in metrics]
    sections = [
        f"---\n{header}\n---",
        f"# {name}",
        f"A language model trained from human feedback. Content digest `{digest}`.",
        _section("Made from", ("model", "digest"), lineage.models),
        _section("Data", ("dataset", "version"), lineage.data),
        _section("Code", ("component", "version"), lineage.code),
        _section("Runs", ("run", "where"), lineage.runs),
        _section("Evaluation", ("figure", "value"), {n: f"{metrics[n]:.4g}" for n in shown}),
    ]
    if decision is not None:
        sections.append(f"## Decision\n\n{decision.summary}")
        sections.append("\n".join(f"- {r.reason}" for r in decision.reasons))
    return "\n\n".join(s for s in sections if s) + "\n"


def _section(title: str, columns: tuple[str, str], facts: Facts) -> str:
    if not facts:
        return ""
    rows = [columns, ("---", "---"), *((_cell(k), _cell(v)) for k, v in facts.items())]
    return f"## {title}\n\n" + "\n".join(f"| {key} | {value} |" for key, value in rows)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
