"""The report of the views: how large each is, what was left out and why, how long the texts are, what they
look like. It counts; it judges nothing."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict

from rlhf.feedback.rows import Message
from rlhf.report import Cell, Report, ReportBuilder

_SHOWN_ROWS = 3
_SHOWN_CHARS = 600
_TEXT_COLUMNS = ("prompt", "completion", "chosen", "rejected", "text")


def views_report(
    views: Mapping[str, DatasetDict],
    incoming: Mapping[tuple[str, str, str], Counter[str]],
    left_out: Mapping[str, Counter[str]],
    *,
    copies: int,
) -> Report:
    """Report on finished views.

    Args:
        views: datasets by name, each with its splits.
        incoming: number of annotation rows by annotator, by (source, kind, status).
        left_out: number of entries by view and reason.
        copies: number of training prompts and texts left out as near-duplicates of dev or test ones.
    """
    report = ReportBuilder("Feedback views")
    report.data["rows"] = [
        {
            "source": source,
            "kind": kind,
            "status": status,
            "rows": annotators.total(),
            "annotators": len(annotators),
        }
        for (source, kind, status), annotators in sorted(incoming.items())
    ]
    report.data["sizes"] = {
        name: {split: len(data) for split, data in view.items()} for name, view in views.items()
    }
    report.data["left_out"] = {
        name: {reason: n for reason, n in reasons.most_common() if n} for name, reasons in left_out.items()
    }
    report.data["near_duplicate_prompts"] = copies
    report.data["lengths"] = {
        name: {
            column: _lengths(view["train"], column)
            for column in view["train"].column_names
            if column in _TEXT_COLUMNS and len(view["train"])
        }
        for name, view in views.items()
    }
    comparisons = views["comparisons"]["train"]
    if len(comparisons):
        report.data["mean_agreement"] = float(np.mean(comparisons["agreement"]))
        report.data["chosen_longer_share"] = _chosen_longer(comparisons)

    report.heading("Sizes")
    splits = list(next(iter(views.values())))
    report.table(["view", *splits], [[name, *sizes.values()] for name, sizes in report.data["sizes"].items()])
    report.note("Splits are by prompt: all rows about a prompt stand on one side and stay there.")
    if len(comparisons):
        report.note(
            f"Training comparisons: the majority holds {report.data['mean_agreement']:.1%} of the votes on "
            f"average; the chosen response is the longer one in {report.data['chosen_longer_share']:.1%}."
        )
    report.heading("Rows that came in")
    report.table(
        ["source", "kind", "status", "rows", "annotators"],
        [list(row.values()) for row in report.data["rows"]],
    )
    reasons: list[list[Cell]] = [
        [name, reason, n] for name, counts in report.data["left_out"].items() for reason, n in counts.items()
    ]
    if reasons:
        report.heading("What was left out")
        report.table(["of", "reason", "entries"], reasons)
    report.heading("Lengths in characters (train)")
    report.table(
        ["view", "column", "median", "95 %", "longest"],
        [
            [name, column, values["p50"], values["p95"], values["max"]]
            for name, columns in report.data["lengths"].items()
            for column, values in columns.items()
        ],
    )
    for name, view in views.items():
        if shown := view["train"].select(range(min(_SHOWN_ROWS, len(view["train"])))).to_list():
            report.heading(f"The first {name} of train")
            report.table(list(shown[0]), [[_shown(value) for value in row.values()] for row in shown])
    return report.build()


def _lengths(data: Dataset, column: str) -> dict[str, int]:
    lengths = [len(_text(value)) for value in data[column]]
    median, high, longest = np.percentile(lengths, [50, 95, 100], method="nearest")
    return {"p50": int(median), "p95": int(high), "max": int(longest)}


def _chosen_longer(comparisons: Dataset) -> float:
    chosen, rejected = ([len(_text(value)) for value in comparisons[side]] for side in ("chosen", "rejected"))
    return float(np.mean(np.array(chosen) > np.array(rejected)))


def _text(value: str | list[Message]) -> str:
    return value if isinstance(value, str) else "\n".join(message["content"] for message in value)


def _shown(value: Any) -> Cell:
    if isinstance(value, list):
        value = "\n".join(f"{message['role']}: {message['content']}" for message in value)
    return value[:_SHOWN_CHARS] if isinstance(value, str) else value
