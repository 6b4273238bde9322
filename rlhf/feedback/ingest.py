"""Ingest in memory: every source into one table of annotation rows, with what was refused and why. For
notebooks and small data; a pipeline run ingests into the ledger, which keeps what it has seen."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from rlhf.errors import DataError
from rlhf.feedback.records import Quarantined
from rlhf.feedback.rows import ROW_SCHEMA, AnnotationRow, to_batch
from rlhf.feedback.settings import FeedbackSettings
from rlhf.feedback.sources import BuiltSource, open_sources
from rlhf.feedback.tally import Tally, report_what_came_in, report_what_was_refused
from rlhf.report import Report, ReportBuilder

logger = logging.getLogger(__name__)

_CHUNK_ROWS = 4096


@dataclass(frozen=True)
class IngestResult:
    """What came in: ``table`` has ``ROW_SCHEMA``, in the order of the sources and of their records."""

    table: pa.Table
    report: Report
    quarantined: tuple[Quarantined, ...]


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
    tallies: dict[str, Tally] = {}
    batches: list[pa.RecordBatch] = []
    for source in sources:
        tally = tallies[source.name] = Tally()
        pending: list[AnnotationRow] = []
        for row in _new_rows(source, tally, seen, quarantined):
            pending.append(row)
            if len(pending) == _CHUNK_ROWS:
                batches.append(to_batch(pending))
                pending.clear()
        if pending:
            batches.append(to_batch(pending))
        tally.layout = source.layout
        tally.refuse_if_mostly_bad(source.name, settings.max_quarantined_share)
        logger.info(
            "%s: %d rows, %d repeated, %d refused", source.name, tally.rows, tally.repeated, tally.quarantined
        )
    table = pa.Table.from_batches(batches, schema=ROW_SCHEMA)
    if table.num_rows == 0:
        raise DataError(
            f"No feedback came in from {', '.join(tallies)}; check that the sources hold the rows you expect."
        )
    report = ReportBuilder("Feedback ingest")
    counts = {name: tally.as_data() for name, tally in tallies.items()}
    report_what_came_in(report, counts)
    report_what_was_refused(report, counts, quarantined)
    return IngestResult(table, report.build(), tuple(quarantined))


def _new_rows(
    source: BuiltSource, tally: Tally, seen: set[str], quarantined: list[Quarantined]
) -> Iterator[AnnotationRow]:
    for outcome in source.read():
        if isinstance(outcome, Quarantined):
            quarantined.append(outcome)
            tally.reasons[outcome.reason] += 1
        elif outcome.row_hash in seen:
            tally.repeated += 1
        else:
            seen.add(outcome.row_hash)
            tally.add(outcome)
            yield outcome
