"""Ingest: every source into one table of annotation rows, with what was refused and why. It aggregates
nothing and stores nothing; a table goes out, the rest is a report."""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from rlhf.errors import DataError
from rlhf.feedback.records import Quarantined
from rlhf.feedback.rows import ROW_SCHEMA, AnnotationRow, canonical_json
from rlhf.feedback.settings import FeedbackSettings
from rlhf.feedback.sources import BuiltSource, open_sources
from rlhf.report import Report, ReportBuilder

logger = logging.getLogger(__name__)

_CHUNK_ROWS = 4096
_SHOWN_QUARANTINED = 20


@dataclass(frozen=True)
class IngestResult:
    """What came in: ``table`` has ``ROW_SCHEMA``, in the order of the sources and of their records."""

    table: pa.Table
    report: Report
    quarantined: tuple[Quarantined, ...]


@dataclass
class _Tally:
    """Counts of one source."""

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

    def as_data(self) -> dict[str, Any]:
        return {
            "layout": self.layout,
            "rows": self.rows,
            "repeated": self.repeated,
            "quarantined": dict(self.reasons.most_common()),
            "kinds": dict(sorted(self.kinds.items())),
            "statuses": dict(sorted(self.statuses.items())),
            "annotators": len(self.annotators),
        }


def ingest(settings: FeedbackSettings) -> IngestResult:
    """Read all sources.

    Identical rows (equal ``row_hash``) are kept once. Unusable records are quarantined with their line and
    the reason; the rest of their source is used.

    Raises:
        ConfigError: a custom source that cannot be made.
        DataError: a source that cannot be read or recognised, that is unusable in more than
            ``max_quarantined_share`` of its records, or no feedback at all.
    """
    sources = open_sources(settings)
    seen: set[str] = set()
    quarantined: list[Quarantined] = []
    tallies: dict[str, _Tally] = {}
    batches: list[pa.RecordBatch] = []
    for source in sources:
        tally = tallies[source.name] = _Tally()
        pending: list[dict[str, Any]] = []
        for row in _new_rows(source, tally, seen, quarantined):
            pending.append(_as_record(row))
            if len(pending) == _CHUNK_ROWS:
                batches.append(pa.RecordBatch.from_pylist(pending, schema=ROW_SCHEMA))
                pending.clear()
        if pending:
            batches.append(pa.RecordBatch.from_pylist(pending, schema=ROW_SCHEMA))
        tally.layout = source.layout
        _refuse_if_mostly_bad(source.name, tally, settings.max_quarantined_share)
    table = pa.Table.from_batches(batches, schema=ROW_SCHEMA)
    if table.num_rows == 0:
        raise DataError(
            f"No feedback came in from {', '.join(tallies)}; check that the sources hold the rows you expect."
        )
    return IngestResult(table, _report(tallies, quarantined), tuple(quarantined))


def _new_rows(
    source: BuiltSource, tally: _Tally, seen: set[str], quarantined: list[Quarantined]
) -> Iterator[AnnotationRow]:
    for outcome in source.read():
        if isinstance(outcome, Quarantined):
            quarantined.append(outcome)
            tally.reasons[outcome.reason] += 1
        elif outcome.row_hash in seen:
            tally.repeated += 1
        else:
            seen.add(outcome.row_hash)
            tally.rows += 1
            tally.kinds[outcome.kind] += 1
            tally.statuses[outcome.status] += 1
            tally.annotators.add(outcome.annotator)
            yield outcome


def _as_record(row: AnnotationRow) -> dict[str, Any]:
    # dataclasses.asdict copies every message and costs as much as the rest of ingest together.
    record = {name: getattr(row, name) for name in ROW_SCHEMA.names}
    record["value"] = canonical_json(row.value)
    return record


def _refuse_if_mostly_bad(name: str, tally: _Tally, allowed: float) -> None:
    entries = tally.rows + tally.repeated + tally.quarantined
    if not tally.quarantined or tally.quarantined <= allowed * entries:
        return
    reason, times = tally.reasons.most_common(1)[0]
    raise DataError(
        f"Source '{name}': {tally.quarantined} of {entries} entries are unusable "
        f"({tally.quarantined / entries:.1%}, allowed are {allowed:.1%}), most often because of: {reason} "
        f"({times} times); correct the source or raise max_quarantined_share."
    )


def _report(tallies: dict[str, _Tally], quarantined: list[Quarantined]) -> Report:
    report = ReportBuilder("Feedback ingest")
    report.data["sources"] = {name: tally.as_data() for name, tally in tallies.items()}
    report.data["rows"] = sum(tally.rows for tally in tallies.values())
    report.data["repeated"] = sum(tally.repeated for tally in tallies.values())
    report.data["quarantined"] = len(quarantined)
    report.heading("What came in")
    report.table(
        ["source", "layout", "rows", "kinds", "statuses", "annotators", "repeated", "quarantined"],
        [
            [
                name,
                tally.layout,
                tally.rows,
                _listed(tally.kinds),
                _listed(tally.statuses),
                len(tally.annotators),
                tally.repeated,
                tally.quarantined,
            ]
            for name, tally in tallies.items()
        ],
    )
    report.note("Repeated rows equal an earlier one in everything, time and annotator included; one is kept.")
    if quarantined:
        report.heading("What was refused")
        report.table(
            ["source", "reason", "entries"],
            [
                [name, reason, n]
                for name, tally in tallies.items()
                for reason, n in tally.reasons.most_common()
            ],
        )
        report.table(
            ["source", "line", "reason", "excerpt"],
            [[q.source, q.line, q.reason, q.excerpt] for q in quarantined[:_SHOWN_QUARANTINED]],
        )
    for name, tally in tallies.items():
        logger.info(
            "%s: %d rows, %d repeated, %d refused", name, tally.rows, tally.repeated, tally.quarantined
        )
    return report.build()


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in sorted(counts.items()))
