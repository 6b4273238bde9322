"""``rlhf feedback``: what is in the ledger, who saw it, and how to take it out."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from rich.table import Table

from ops import environment
from ops.console import add_row, print_table

if TYPE_CHECKING:  # the command line's help loads neither Arrow nor ZenML
    from ops.derived_data import DerivedCopy
    from ops.lineage import SeenBy, Span
    from rlhf.feedback.ledger.history import Kind, Version

_EXCERPT = 80
_MOST_ROWS = 20


@click.group()
@click.option("--ledger", help="Folder or URL of the ledger; by default this installation's.")
@click.pass_context
def feedback(context: click.Context, ledger: str | None) -> None:
    """The feedback ledger: its history, its records, and their removal."""
    from ops.ledger import default_url

    context.obj = ledger or default_url()


@feedback.command()
@click.option("--limit", default=20, show_default=True, help="How many transactions to show.")
@click.pass_obj
def log(url: str, limit: int) -> None:
    """List the ledger's transactions, newest first."""
    from rlhf.feedback.ledger import history

    table = Table("sequence", "time (UTC)", "what", "source", "new", "edited", "retracted", "refused", "rows")
    for commit in history.log(url)[:limit]:
        when = f"{commit.at:%Y-%m-%d %H:%M:%S}"
        for rule in commit.rules:
            who = f"{rule.kind} {rule.digest[:12]}… by {rule.by}"
            add_row(table, str(commit.last_sequence), when, commit.action, who)
        for key, entry in commit.sources.items():
            counts = entry.get("counts", {})
            figures = [str(counts.get(name, "")) for name in ("new", "edited", "retracted", "quarantined")]
            add_row(table, str(commit.last_sequence), when, commit.action, key, *figures, str(entry["live"]))
    print_table(table)


@feedback.command()
@click.argument("record", required=False)
@click.pass_obj
def show(url: str, record: str | None) -> None:
    """Show the sources, or every version of RECORD."""
    from rlhf.feedback.ledger import history
    from rlhf.feedback.ledger.table import head_of, open_table

    if record is not None:
        found = _found(url, "record", record)
        print_table(_versions_table(found))
        _print_contents(found)
        return
    head = head_of(open_table(url))
    sources = Table("source", "rows", "last change at", "layout", title=f"{url} at {head.last_sequence}")
    for key, entry in head.sources.items():
        add_row(sources, key, str(entry["live"]), str(entry["sequence"]), str(entry["tally"]["layout"]))
    print_table(sources)
    latest = Table("sequence", "record", "kind", "annotator", "status", title="Latest rows")
    since = max(head.last_sequence - _MOST_ROWS, 0)
    for row in history.changed_rows(url, since, head.last_sequence, _MOST_ROWS):
        cells = (row[name] for name in ("ledger_seq", "record_id", "kind", "annotator", "status"))
        add_row(latest, *cells)
    print_table(latest)


@feedback.command()
@click.argument("before", type=click.IntRange(min=0))
@click.argument("after", type=click.IntRange(min=0))
@click.pass_obj
def diff(url: str, before: int, after: int) -> None:
    """Compare the states at the sequence numbers BEFORE and AFTER."""
    from rlhf.feedback.ledger import history

    table = Table("source", "added", "edited", "removed", "unchanged")
    for difference in history.diff(url, before, after):
        figures = (difference.added, difference.edited, difference.removed, difference.unchanged)
        add_row(table, difference.source_key, *map(str, figures))
    print_table(table)
    rows = Table("sequence", "record", "question", "annotator", "value", title="First rows put in between")
    for row in history.changed_rows(url, before, after, _MOST_ROWS):
        cells = (row["ledger_seq"], row["record_id"], row["question"], row["annotator"], row["value"])
        add_row(rows, *(_short(cell) for cell in cells))
    print_table(rows)


@feedback.command()
@click.argument("record")
@click.option("--annotator", is_flag=True, help="RECORD is the name of an annotator.")
@click.pass_obj
def trace(url: str, record: str, annotator: bool) -> None:
    """Name the runs, and the champions among their models, that saw RECORD."""
    _print_runs(url, _spans(url, _kind(annotator), record), "No run has seen it.")


@feedback.command()
@click.argument("name")
@click.option("--annotator", is_flag=True, help="NAME is an annotator, not a record.")
@click.option("--by", default=getpass.getuser, help="Who asks; kept in the ledger's history.")
@click.pass_obj
def forget(url: str, name: str, annotator: bool, by: str) -> None:
    """Take the record NAME out of the feedback, now and in every later ingest."""
    from rlhf.feedback.ledger import erasure

    forgotten = erasure.forget(url, _kind(annotator), name, by)
    click.echo(f"{forgotten.live} rows no longer count. Earlier versions are still in the ledger's history.")
    _print_runs(url, forgotten.spans, "No run has seen it: nothing has to be retrained.")


@feedback.command()
@click.argument("name")
@click.option("--annotator", is_flag=True, help="NAME is an annotator, not a record.")
@click.option("--by", default=getpass.getuser, help="Who asks; kept in the ledger's history.")
@click.option("--yes", is_flag=True, help="Do it; without this, nothing is changed.")
@click.pass_obj
def erase(url: str, name: str, annotator: bool, by: str, yes: bool) -> None:
    """Say what holds NAME; with --yes, forget it and remove its content from the ledger's files and history,
    and from what runs derived of them."""
    from ops.derived_data import delete_copies, derived_copies, expire_cached_steps, forget_hub_datasets
    from ops.tracking import TRACKER_ERRORS
    from rlhf.errors import LedgerError
    from rlhf.feedback.ledger import erasure, history

    if yes:
        spans = erasure.erase(url, _kind(annotator), name, by).spans
        click.echo("The ledger holds none of its content any more, only that it was erased.")
    else:
        spans = _spans(url, _kind(annotator), name)
        held = len(history.versions(url, _kind(annotator), name))
        click.echo(f"The ledger holds {held} rows of it, earlier versions included.")
    runs = _print_runs(url, spans, "No run has seen it: nothing has to be retrained.")
    try:
        copies = derived_copies(seen.run for seen in runs)
    except TRACKER_ERRORS as error:
        raise LedgerError(
            "MLflow cannot be asked for its copies of reports, so that nothing derived was deleted; run it "
            "again when it is up."
        ) from error
    _print_copies(copies)
    if not yes:
        click.echo("Nothing was changed; run it again with --yes to erase all of this.")
        return
    forget_hub_datasets()
    expire_cached_steps(seen.run for seen in runs)
    left = delete_copies(copies)
    if copies:
        click.echo(f"{len(copies) - len(left)} of {len(copies)} copies were deleted.")
    for copy, reason in left:
        click.echo(f"Left: {copy.name} at {copy.where} ({reason}).")
    for seen in runs:
        if seen.models:
            versions = f", registered as {', '.join(seen.versions)}" if seen.versions else ""
            click.echo(f"Left: {', '.join(seen.models)} of run {seen.name}, trained with it{versions}.")
    click.echo(
        "Left: the source itself with what Hugging Face's own cache holds of it, backups, and what "
        f"{environment.scratch()} holds of runs that broke off."
    )


def _print_runs(url: str, spans: Sequence[Span], none: str) -> list[SeenBy]:
    from ops.lineage import runs_that_saw

    runs = runs_that_saw(url, spans)
    if not runs:
        click.echo(none)
        return runs
    table = Table("run", "started (UTC)", "status", "sequence", "trained", "registered", title="Seen by")
    for run in runs:
        add_row(
            table,
            *(run.name, run.started, run.status, str(run.sequence)),
            *(", ".join(run.models), ", ".join(run.versions)),
        )
    print_table(table)
    return runs


def _print_copies(copies: Sequence[DerivedCopy]) -> None:
    if not copies:
        return
    table = Table("copy", "where", "with --yes", title="Derived from it, or may quote it")
    for copy in copies:
        add_row(table, copy.name, copy.where, copy.treatment)
    print_table(table)


def _spans(url: str, kind: Kind, name: str) -> Sequence[Span]:
    from rlhf.feedback.ledger import history

    spans = history.lifetimes(url, kind, name)
    if not spans:
        raise _unknown(url, kind, name)
    return spans


def _found(url: str, kind: Kind, name: str) -> list[Version]:
    from rlhf.feedback.ledger import history

    found = history.versions(url, kind, name)
    if not found:
        raise _unknown(url, kind, name)
    return found


def _unknown(url: str, kind: Kind, name: str) -> Exception:
    from rlhf.errors import LedgerError

    return LedgerError(f"The ledger at {url} never had the {kind} {name!r}; `rlhf feedback show` lists rows.")


def _versions_table(versions: Sequence[Version]) -> Table:
    table = Table("sequence", "until", "source", "question", "kind", "annotator", "status", "value")
    for version in versions:
        row = version.row
        add_row(
            table,
            *(str(version.first), str(version.end or ""), version.source_key),
            *(_short(row[name]) for name in ("question", "kind", "annotator", "status", "value")),
        )
    return table


def _print_contents(versions: Sequence[Version]) -> None:
    """Each prompt with the responses that were judged; a comparison's value is the number of one of them."""
    from rlhf.feedback.rows import canonical_json

    shown: set[str] = set()
    for version in versions:
        prompt, responses = version.row["prompt"], version.row["responses"]
        content = canonical_json([prompt, responses])
        if content in shown:
            continue
        shown.add(content)
        for message in prompt:
            click.echo(f"\n{message['role']}:\n{message['content']}")
        for number, response in enumerate(responses):
            click.echo(f"\nresponse {number}:\n{response}")


def _kind(annotator: bool) -> Kind:
    return "annotator" if annotator else "record"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]} …"
