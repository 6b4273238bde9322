"""The model card of a registered version: short Markdown that says what it is, where it comes from and what
was measured. Everything in it is taken from lineage and figures; prose about the project belongs in the docs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
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
    licences: Facts = field(default_factory=dict)
    """Source of feedback to the licence of its data."""
    annotators: Facts = field(default_factory=dict)
    """Question to who answered it and how well they agree. No names: a card travels further than the data."""


def model_card(
    name: str,
    digest: str,
    lineage: Lineage,
    metrics: Mapping[str, float],
    *,
    decision: PromotionDecision | None = None,
    metric_names: tuple[str, ...] | None = None,
    worst: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    about: str = "A language model trained from human feedback.",
    task: str = "text-generation",
) -> str:
    """The card as Markdown with the metadata block that the Hugging Face hub reads.

    Args:
        metrics: flat figures of the evaluation; ``x_low`` and ``x_high`` are shown as the interval of ``x``.
        metric_names: the figures to show, in this order (absent ones are left out); all by default.
        worst: one sentence about each of the worst answers, see :func:`worst_answers`.
        settings: what it was trained with.
        task: the hub's name of what the model does.
    """
    header = ModelCardData(
        model_name=name, library_name="transformers", pipeline_tag=task, tags=["rlhf"]
    ).to_yaml()
    sections = [
        f"---\n{header}\n---",
        f"# {name}",
        f"{about} Content digest `{digest}`.",
        _section("Made from", ("model", "digest"), lineage.models),
        _section("Data", ("dataset", "version"), lineage.data),
        _section("Code", ("component", "version"), lineage.code),
        _section("Runs", ("run", "where"), lineage.runs),
        _section("Licences of the data", ("source", "licence"), lineage.licences),
        _section("Annotators", ("question", "who"), lineage.annotators),
        _section("Evaluation", ("figure", "value [95 % interval]"), _figures(metrics, metric_names)),
    ]
    if decision is not None:
        sections.append(f"## Decision\n\n{decision.summary}")
        sections.append("\n".join(f"- {r.reason}" for r in decision.reasons))
    failed = [r.reason for r in decision.reasons if not r.passed] if decision is not None else []
    if known := [*failed, *worst]:
        sections.append("## Known failures\n\n" + "\n".join(f"- {' '.join(said.split())}" for said in known))
    if settings:
        dumped = yaml.safe_dump(dict(settings), sort_keys=True, allow_unicode=True)
        sections.append(f"## Settings\n\n```yaml\n{dumped}```")
    return "\n\n".join(s for s in sections if s) + "\n"


def worst_answers(samples: Sequence[Mapping[str, Any]], rewards: Sequence[str]) -> list[str]:
    """What is known of the worst answers, by record and not by text: what a card quotes, no erasure reaches.

    Args:
        samples: rows of the evaluation: ``why``, ``record_id``, ``policy_<reward>``, ``sft_<reward>``.
        rewards: the rewards to name.
    """
    told = []
    for row in samples:
        scores = [
            f"{name} {row[f'policy_{name}']:.3g} (SFT {row[f'sft_{name}']:.3g})"
            for name in rewards
            if f"policy_{name}" in row and f"sft_{name}" in row
        ]
        if row.get("why") == "worst" and scores:
            told.append(f"Among the worst answers, to record {row['record_id']}: {', '.join(scores)}.")
    return told


def _figures(metrics: Mapping[str, float], names: Sequence[str] | None) -> dict[str, str]:
    shown = {}
    for name in names or sorted(metrics):
        base, _, end = name.rpartition("_")
        if name not in metrics or (end in ("low", "high") and base in metrics):
            continue
        shown[name] = f"{metrics[name]:.4g}"
        if (low := metrics.get(f"{name}_low")) is not None and (
            high := metrics.get(f"{name}_high")
        ) is not None:
            shown[name] += f" [{low:.4g}, {high:.4g}]"
    return shown


def _section(title: str, columns: tuple[str, str], facts: Facts) -> str:
    if not facts:
        return ""
    rows = [columns, ("---", "---"), *((_cell(k), _cell(v)) for k, v in facts.items())]
    return f"## {title}\n\n" + "\n".join(f"| {key} | {value} |" for key, value in rows)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
