"""The ingest of a run: the ledger brought up to its sources, and the report that says what is new."""

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf.errors import ConfigError
from rlhf.feedback.ledger.commit import SourceChange, ingest_all
from rlhf.feedback.ledger.feeds import source_key
from rlhf.feedback.ledger.reference import LedgerRef
from rlhf.feedback.ledger.state import reference_at
from rlhf.feedback.settings import FeedbackSettings
from rlhf.feedback.tally import report_what_came_in, report_what_was_refused
from rlhf.report import Report, ReportBuilder


@dataclass(frozen=True)
class LedgerIngest:
    """The state of the feedback after an ingest, and how it came to be."""

    reference: LedgerRef
    report: Report
    changes: tuple[SourceChange, ...]


def ingest_into_ledger(settings: FeedbackSettings) -> LedgerIngest:
    """Read what changed in the sources into the ledger at ``settings.ledger.url``, or look a pinned state up.

    Raises:
        ConfigError: the settings name no ledger, or a custom source that cannot be made.
        DataError: a source that cannot be read or recognised, that is unusable in more than
            ``max_quarantined_share`` of its records, or no feedback at all. Sources before it in the config
            have been ingested.
        LedgerError: the ledger cannot be opened, made or written.
    """
    if settings.ledger.url is None:
        raise ConfigError(
            "feedback.ledger.url is not set; name the folder or object-store URL of the ledger."
        )
    if settings.ledger.sequence is not None:
        keys = tuple(source_key(source) for source in settings.sources)
        return stay_at(reference_at(settings.ledger.url, keys, settings.ledger.sequence))
    reference, changes = ingest_all(settings, settings.ledger.url)
    return LedgerIngest(reference, ingest_report(reference, changes), tuple(changes))


def stay_at(reference: LedgerRef) -> LedgerIngest:
    """A state that the ledger has had, with a report that says so; no source is read."""
    report = ReportBuilder("Feedback ingest", subtitle=f"Pinned at sequence {reference.sequence:,}.")
    report.data["sequence"] = reference.sequence
    report.data["summary"] = f"Nothing was read: this run works with sequence {reference.sequence:,}."
    report.note(
        "This run goes on with an interrupted one, or is pinned by feedback.ledger.sequence, and works with "
        "the feedback of that time; what came in since then is for another run."
    )
    return LedgerIngest(reference, report.build(), ())


def ingest_report(reference: LedgerRef, changes: Sequence[SourceChange]) -> Report:
    """What came in, what of it is new, and what was refused."""
    report = ReportBuilder("Feedback ingest", subtitle=summary(changes))
    sources = {change.name: change.tally for change in changes}
    report_what_came_in(report, sources)
    report.data["rows"] = sum(change.live for change in changes)
    report.data["summary"] = summary(changes)
    report.data["sequence"] = reference.sequence
    report.data["changes"] = {
        change.name: {name: getattr(change, name) for name in _COUNTS} for change in changes
    }
    report.heading("What changed since the last ingest")
    report.table(
        ["source", "new", "edited", "retracted", "unchanged", "kept out", "rows that count"],
        [[change.name, *(getattr(change, name) for name in _COUNTS)] for change in changes],
    )
    report.note(
        f"The ledger stands at sequence {reference.sequence:,}. Edited rows replace their earlier version; "
        "retracted rows are gone from their source; rows kept out belong to a record or an annotator that "
        "was forgotten. A source whose watermark did not move is not read again; the first table then shows "
        "its last reading."
    )
    quarantined = [entry for change in changes for entry in change.quarantined]
    report_what_was_refused(report, sources, quarantined)
    return report.build()


_COUNTS = ("new", "edited", "retracted", "unchanged", "kept_out", "live")


def summary(changes: Sequence[SourceChange]) -> str:
    """One sentence on what is new, for the report's head and the log."""
    live = sum(change.live for change in changes)
    new, edited, retracted = (
        sum(getattr(change, name) for change in changes) for name in ("new", "edited", "retracted")
    )
    if not new + edited + retracted:
        return f"Nothing changed since the last ingest: {live:,} annotations."
    share = f" ({new / live:.1%})" if live else ""
    return (
        f"{live:,} annotations, of which {new:,}{share} are new and {edited:,} edited since the last ingest; "
        f"{retracted:,} were retracted. This run trains on all of them as they are now."
    )
