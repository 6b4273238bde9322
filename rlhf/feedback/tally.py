"""Counts of what one source gave, and the report of an ingest that is made from them."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from rlhf.errors import DataError
from rlhf.feedback.records import Quarantined
from rlhf.feedback.rows import AnnotationRow
from rlhf.report import Cell, ReportBuilder

_SHOWN_QUARANTINED = 20


@dataclass
class Tally:
    """Counts of one source while it is read."""

    layout: str = ""
    rows: int = 0
    repeated: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    annotators: set[str] = field(default_factory=set)
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def quarantined(self) -> int:
        return self.reasons.total()

    def add(self, row: AnnotationRow) -> None:
        """Count a row that is kept."""
        self.rows += 1
        self.kinds[row.kind] += 1
        self.statuses[row.status] += 1
        self.annotators.add(row.annotator)

    def refuse_if_mostly_bad(self, name: str, allowed: float, known: int = 0) -> None:
        """Stop at a source that is not what its config takes it for.

        Args:
            name: of the source.
            allowed: share of its entries that may be unusable.
            known: its good entries that were not read again.

        Raises:
            DataError: more than ``allowed`` of its entries are unusable.
        """
        entries = self.rows + self.repeated + self.quarantined + known
        if not self.quarantined or self.quarantined <= allowed * entries:
            return
        reason, times = self.reasons.most_common(1)[0]
        raise DataError(
            f"Source '{name}': {self.quarantined} of {entries} entries are unusable "
            f"({self.quarantined / entries:.1%}, allowed are {allowed:.1%}), most often because of: {reason} "
            f"({times} times); correct the source or raise max_quarantined_share."
        )

    def as_data(self) -> dict[str, Any]:
        """The counts as JSON; they name no record and no annotator."""
        return {
            "layout": self.layout,
            "rows": self.rows,
            "repeated": self.repeated,
            "quarantined": dict(self.reasons.most_common()),
            "kinds": dict(sorted(self.kinds.items())),
            "statuses": dict(sorted(self.statuses.items())),
            "annotators": len(self.annotators),
        }


def report_what_came_in(report: ReportBuilder, sources: Mapping[str, Mapping[str, Any]]) -> None:
    """Figures and a table of all sources.

    Args:
        report: what is added to.
        sources: :meth:`Tally.as_data` by the source's name.
    """
    report.data["sources"] = dict(sources)
    report.data["rows"] = sum(tally["rows"] for tally in sources.values())
    report.data["repeated"] = sum(tally["repeated"] for tally in sources.values())
    report.data["quarantined"] = sum(sum(tally["quarantined"].values()) for tally in sources.values())
    report.heading("What came in")
    report.table(
        ["source", "layout", "rows", "kinds", "statuses", "annotators", "repeated", "quarantined"],
        [
            [
                name,
                tally["layout"],
                tally["rows"],
                _listed(tally["kinds"]),
                _listed(tally["statuses"]),
                tally["annotators"],
                tally["repeated"],
                sum(tally["quarantined"].values()),
            ]
            for name, tally in sources.items()
        ],
    )
    report.note("Repeated rows equal an earlier one in everything, time and annotator included; one is kept.")


def report_what_was_refused(
    report: ReportBuilder, sources: Mapping[str, Mapping[str, Any]], quarantined: Iterable[Quarantined]
) -> None:
    """Reasons with their counts, and the beginnings of some refused entries; nothing where all were taken."""
    if not report.data["quarantined"]:
        return
    report.heading("What was refused")
    reasons: list[list[Cell]] = [
        [name, reason, n] for name, tally in sources.items() for reason, n in tally["quarantined"].items()
    ]
    report.table(["source", "reason", "entries"], reasons)
    shown: list[list[Cell]] = [
        [entry.source, entry.line, entry.reason, entry.excerpt]
        for entry in islice(quarantined, _SHOWN_QUARANTINED)
    ]
    if shown:
        report.table(["source", "line", "reason", "excerpt"], shown)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in sorted(counts.items()))
