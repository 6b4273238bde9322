"""`rlhf approve`, `rlhf reject` and `rlhf gate`: a person's part in a promotion."""

import getpass

import click
from rich.table import Column, Table

from ops.console import add_row, print_table
from rlhf.errors import PromotionError

_BY = click.option("--by", default=None, help="Who answers for it; by default the user of this machine.")


@click.command()
@click.argument("run")
@click.option("--reason", required=True, help="Why; it stands in the registry.")
@_BY
def approve(run: str, reason: str, by: str | None) -> None:
    """Let the candidate of RUN (a name or an id), which its gate let pass, become the champion."""
    _answer(run, True, by, reason)


@click.command()
@click.argument("run")
@click.option("--reason", default="", help="Why; it stands in the registry.")
@_BY
def reject(run: str, reason: str, by: str | None) -> None:
    """Refuse the candidate of RUN (a name or an id) although its gate let it pass."""
    _answer(run, False, by, reason)


@click.group()
def gate() -> None:
    """Verdicts: those that wait for a person, and whether one is genuine."""


@gate.command()
def waiting() -> None:
    """List the runs whose verdict waits for approval."""
    from ops.approval import open_requests

    table = Table(
        Column("run", overflow="fold"),
        "candidate",
        "champion it was judged against",
        "may be approved until (UTC)",
    )
    for request in open_requests():
        until = f"{request.expires_at:%Y-%m-%d %H:%M}"
        add_row(table, request.run, request.candidate[:12], (request.champion or "none")[:12], until)
    print_table(table)


@gate.command()
@click.argument("run")
def verify(run: str) -> None:
    """Check the verdict of RUN: its seal, the models and reports it speaks of, and both registries."""
    from ops.gate import find_run
    from ops.gate import verify as checks_of

    checks = checks_of(find_run(run))
    for check in checks:
        click.echo(f"{check.what}: {check.problem or 'as sealed'}")
    wrong = [check for check in checks if check.problem]
    if wrong:
        raise PromotionError(f"{len(wrong)} of {len(checks)} checks of this verdict failed.")


def _answer(run: str, approved: bool, by: str | None, reason: str) -> None:
    from ops import approval
    from rlhf.registry.approval import ApprovalAnswer

    given = ApprovalAnswer(approve=approved, approver=by or getpass.getuser(), reason=reason)
    outcome = approval.answer(run, given)
    click.echo(outcome.reason)
    if outcome.action != ("approved" if approved else "refused"):
        raise PromotionError(f"The answer did not count: the request is {outcome.action}.")
