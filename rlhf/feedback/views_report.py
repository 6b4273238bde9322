"""The report of the views: how large each is, what was left out and why, who annotated how well, how long the
texts are, what they look like. It counts; it judges nothing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from datasets import DatasetDict

from rlhf.feedback.annotators import QuestionFigures
from rlhf.feedback.annotators_report import annotators_section
from rlhf.feedback.quality.contradictions import Contradictions
from rlhf.feedback.quality.lengths import length_bias, looks_cut_off
from rlhf.feedback.quality.pii import PIICounts
from rlhf.feedback.rows import Message
from rlhf.report import Cell, Report, ReportBuilder

_SHOWN_ROWS = 3
_SHOWN_CHARS = 600
_TEXT_COLUMNS = ("prompt", "completion", "chosen", "rejected", "text")


@dataclass(frozen=True)
class Quality:
    """What was found in the texts, whether or not it was left out."""

    near_duplicates: int
    """Training prompts and texts that are near-duplicates of dev or test ones."""
    contaminated: int
    """Further ones that share a long run of words with dev or test."""
    contradictions: Contradictions
    """Among the settled comparisons."""
    pii: PIICounts
    languages: Counter[str]
    """Rows by language code, of all that came in or of a sample; empty where nobody asked."""


def views_report(
    views: Mapping[str, DatasetDict],
    incoming: Mapping[tuple[str, str, str], Counter[str]],
    left_out: Mapping[str, Counter[str]],
    quality: Quality,
    annotators: Sequence[QuestionFigures],
) -> Report:
    """Report on finished views.

    Args:
        views: datasets by name, each with its splits.
        incoming: number of annotation rows by annotator, by (source, kind, status).
        left_out: number of entries by view and reason.
        quality: what was found in the texts.
        annotators: figures of every question.
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
    report.data["near_duplicate_prompts"] = quality.near_duplicates
    report.data["contaminated_prompts"] = quality.contaminated
    report.data["contradictions"] = {
        "circular": len(quality.contradictions.circular),
        "equal sides": len(quality.contradictions.equal),
    }
    report.data["personal_data"] = {
        "rows": quality.pii.rows,
        "finds": dict(sorted(quality.pii.finds.items())),
    }
    report.data["languages"] = dict(quality.languages.most_common())
    texts = {
        name: {
            column: [_text(value) for value in view["train"][column][:]]
            for column in view["train"].column_names
            if column in _TEXT_COLUMNS and len(view["train"])
        }
        for name, view in views.items()
    }
    report.data["lengths"] = {
        name: {column: _lengths(held) for column, held in columns.items()} for name, columns in texts.items()
    }
    comparisons = views["comparisons"]["train"]
    if len(comparisons):
        report.data["mean_agreement"] = float(np.mean(comparisons["agreement"][:]))
        chosen, rejected = (list(map(len, texts["comparisons"][side])) for side in ("chosen", "rejected"))
        report.data["chosen_longer_share"] = float(np.mean(np.array(chosen) > np.array(rejected)))
        bias = length_bias(chosen, rejected)
        report.data["length_bias"] = asdict(bias) if bias else None

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
    annotators_section(report, annotators)
    _quality_section(report)
    report.heading("Lengths in characters (train)")
    report.note(
        "Cut off: ends without terminal punctuation. Lists, code and chat style do so as well; compare "
        "sources by it, not texts."
    )
    report.table(
        ["view", "column", "median", "95 %", "longest", "empty", "cut off"],
        [
            [name, column, *values.values()]
            for name, columns in report.data["lengths"].items()
            for column, values in columns.items()
        ],
    )
    for name, view in views.items():
        if shown := view["train"].select(range(min(_SHOWN_ROWS, len(view["train"])))).to_list():
            report.heading(f"The first {name} of train")
            report.table(list(shown[0]), [[_shown(value) for value in row.values()] for row in shown])
    return report.build()


def _quality_section(report: ReportBuilder) -> None:
    data = report.data
    report.heading("Quality of texts")
    found: list[list[Cell]] = [
        ["training prompts that are near-duplicates of dev or test", data["near_duplicate_prompts"]],
        ["further ones that share a long run of words with dev or test", data["contaminated_prompts"]],
        ["comparisons that contradict others of their prompt", data["contradictions"]["circular"]],
        ["comparisons whose sides differ in case or spacing only", data["contradictions"]["equal sides"]],
        ["rows with personal data", data["personal_data"]["rows"]],
        *([f"finds of {kind}", times] for kind, times in data["personal_data"]["finds"].items()),
        *([f"rows in language {code}", rows] for code, rows in data["languages"].items()),
    ]
    report.table(["found", "number"], found)
    if bias := data.get("length_bias"):
        low, high = bias["interval"]["low"], bias["interval"]["high"]
        report.note(
            f"Length bias of the training comparisons: of {bias['pairs']:,} whose sides differ in length, "
            f"the longer one is preferred in {bias['longer_chosen']:.1%} (95 % interval {low:.1%} to "
            f"{high:.1%}); the difference in length correlates with the preference at "
            f"{bias['correlation']:.2f}."
        )


def _lengths(texts: Sequence[str]) -> dict[str, float]:
    lengths = [len(text) for text in texts]
    median, high, longest = np.percentile(lengths, [50, 95, 100], method="nearest")
    empty = sum(not text.strip() for text in texts)
    cut_off = sum(map(looks_cut_off, texts)) / len(texts)
    return {
        "p50": int(median),
        "p95": int(high),
        "max": int(longest),
        "empty": empty,
        "cut_off_share": cut_off,
    }


def _text(value: str | list[Message]) -> str:
    return value if isinstance(value, str) else "\n".join(message["content"] for message in value)


def _shown(value: Any) -> Cell:
    if isinstance(value, list):
        value = "\n".join(f"{message['role']}: {message['content']}" for message in value)
    return value[:_SHOWN_CHARS] if isinstance(value, str) else value
