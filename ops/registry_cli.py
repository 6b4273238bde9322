"""``rlhf registry`` and ``rlhf prune``: who is champion, how it came to be, and what may be deleted."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from rich.table import Table

from ops.console import add_row, print_table
from ops.tags import RUN_NAME_TAG

if TYPE_CHECKING:  # the command line's help loads neither MLflow nor ZenML
    from ops.prune import Prunable
    from ops.registries import MLflowRegistry
    from rlhf.registry.store import RegisteredVersion
    from rlhf.registry.transaction import PromotionOutcome


@click.group()
def registry() -> None:
    """The models that were registered: champion, candidates, their history, and the way back."""


@registry.command("list")
@click.option("--limit", default=20, show_default=True, help="How many versions to show.")
def list_versions(limit: int) -> None:
    """List the latest policies with their aliases, verdicts and reward models."""
    from rlhf.registry.store import POLICY, ROLES

    store = _store()
    aliases = store.aliases()
    table = Table("version", "aliases", "verdict", "run", "feedback", "reward models", "digest")
    for version in reversed(store.versions(POLICY)[-limit:]):
        models = (f"{role} v{number}" for role in ROLES if (number := version.reward_model(role)))
        add_row(
            table,
            f"v{version.version}",
            ", ".join([*_aliases_of(aliases, version), *(["(pruned)"] if version.pruned else [])]),
            version.tags.get("promotion.verdict", ""),
            version.tags.get(RUN_NAME_TAG, ""),
            version.tags.get("data.ledger_sequence", ""),
            ", ".join(models),
            version.digest[:12],
        )
    print_table(table)
    _warn_of_open_move(store)


@registry.command()
@click.argument("version", default="champion")
def show(version: str) -> None:
    """Show the model card and the tags of VERSION (a number or an alias)."""
    from ops.model_cards import read_card
    from rlhf.registry.journal import HISTORY_PREFIX
    from rlhf.registry.store import POLICY
    from rlhf.registry.transaction import version_named

    store = _store()
    found = version_named(store, version)
    card = read_card(found.path) or store.description(POLICY, found.version)
    if card:
        click.echo(card)
    table = Table(
        "tag", "value", title=f"policy v{found.version} {', '.join(_aliases_of(store.aliases(), found))}"
    )
    for tag, value in sorted(found.tags.items()):
        if not tag.startswith(HISTORY_PREFIX):
            add_row(table, tag, value)
    print_table(table)


@registry.command()
@click.option("--limit", default=20, show_default=True, help="How many moves to show.")
def history(limit: int) -> None:
    """Tell who moved which version, when, why and on what evidence; newest first."""
    from rlhf.registry.store import CHAMPION, POLICY, place
    from rlhf.registry.transaction import history as moves

    champion = place(POLICY, CHAMPION)
    table = Table("when (UTC)", "who", "what", "version", "champion", "why", "evidence")
    for move in moves(_store())[:limit]:
        moved = champion in move.after
        before = move.before.get(champion)
        add_row(
            table,
            f"{move.at:%Y-%m-%d %H:%M:%S}",
            move.by,
            move.action,
            f"v{move.version}",
            f"{f'v{before}' if before else 'none'} → v{move.after[champion]}" if moved else "stays",
            move.why,
            "\n".join(f"{name} {value}" for name, value in move.evidence.items()),
        )
    print_table(table)


@registry.command()
@click.argument("version")
@click.option("--reason", required=True, help="Why; kept in the history.")
@click.option("--by", default=getpass.getuser, help="Who answers for it; by default the user.")
def promote(version: str, reason: str, by: str) -> None:
    """Make VERSION the champion, whatever the gate said of it."""
    from rlhf.registry.transaction import appoint

    _tell(appoint(_store(), version, by=by, why=reason))


@registry.command()
@click.option("--to", help="Version to return to; the previous champion by default.")
@click.option("--reason", default="not stated", help="Why; kept in the history.")
@click.option("--by", default=getpass.getuser, help="Who answers for it; by default the user.")
def rollback(to: str | None, reason: str, by: str) -> None:
    """Return to an earlier champion, with its reward models. Again undoes it."""
    from rlhf.registry.transaction import rollback as roll_back

    _tell(roll_back(_store(), to, by=by, why=reason))


@registry.command()
@click.argument("one")
@click.argument("other")
def diff(one: str, other: str) -> None:
    """Compare two versions (numbers or aliases): data, code, settings and figures."""
    from ops.registry_diff import differences
    from rlhf.registry.transaction import version_named

    store = _store()
    left, right = version_named(store, one), version_named(store, other)
    table = Table("", f"v{left.version}", f"v{right.version}")
    for name, mine, theirs in differences(left, right):
        add_row(table, name, mine, theirs)
    if not table.row_count:
        click.echo(f"v{left.version} and v{right.version} do not differ in anything that is recorded.")
        return
    print_table(table)


@registry.command()
@click.option("--force", is_flag=True, help="Also end a move of another machine, whose process is dead.")
def repair(force: bool) -> None:
    """Finish or undo what a dead process left, and bring ZenML to what MLflow says."""
    from rlhf.registry.transaction import repair as mend

    done = mend(_store(), force=force)
    click.echo(f"An interrupted move was {done}." if done else "No move was interrupted.")
    click.echo("ZenML's versions and stages are those of MLflow.")


@click.command()
@click.option(
    "--older-than",
    "days",
    default=30.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Age in days up to which every run is kept.",
)
@click.option("--by", default=getpass.getuser, help="Who deletes; by default the user.")
@click.option("--yes", is_flag=True, help="Delete what is listed.")
def prune(days: float, by: str, yes: bool) -> None:
    """List what nothing needs any more; with --yes, delete it. Run no pipeline meanwhile.

    Kept is what a champion, the previous one, a candidate or an open approval comes from, with the runs that
    made and judged it.
    """
    from ops.prune import delete, prunable

    found = prunable(days)
    _print_prunable(found)
    if not found.artifacts and not found.runs:
        click.echo("Nothing can go.")
    elif yes:
        click.echo(f"{_bytes(delete(found, by=by))} were freed.")
    else:
        click.echo("Nothing was deleted; run it again with --yes.")


def _print_prunable(found: Prunable) -> None:
    if not found.artifacts and not found.runs:
        return
    table = Table(
        "artifact", "versions", "size", title=f"Unreachable from what is kept: {len(found.runs)} runs"
    )
    by_name: dict[str, list[int]] = {}
    for artifact in found.artifacts:
        by_name.setdefault(artifact.name, []).append(artifact.size_bytes)
    for name, sizes in sorted(by_name.items(), key=lambda item: -sum(item[1])):
        add_row(table, name, str(len(sizes)), _bytes(sum(sizes)))
    table.add_section()
    add_row(table, "total", str(len(found.artifacts)), _bytes(sum(a.size_bytes for a in found.artifacts)))
    print_table(table)
    for uri in found.outside:
        click.echo(f"Left alone, since it is not inside the artifact store: {uri}")


def _store() -> MLflowRegistry:
    from ops.zenml_process import ZenMLProcess

    # First: it loads ZenML while this process loads MLflow.
    zenml = ZenMLProcess() if sys.platform == "linux" else None
    from ops.registries import policy_registry

    return policy_registry(zenml)


def _aliases_of(aliases: dict[str, str], version: RegisteredVersion) -> Sequence[str]:
    places = (
        p.removeprefix("policy@")
        for p, v in aliases.items()
        if p.startswith("policy@") and v == version.version
    )
    return sorted(places)


def _warn_of_open_move(store: MLflowRegistry) -> None:
    if (journal := store.journal()) is not None:
        click.echo(
            f"A {journal.action} by {journal.by} on {journal.place} is open since {journal.at:%H:%M:%S} UTC; "
            "if its process is dead, `rlhf registry repair` ends it."
        )


def _tell(outcome: PromotionOutcome) -> None:
    before = f"version {outcome.previous.version}" if outcome.previous.exists else "nobody"
    click.echo(f"Version {outcome.champion.version} is the champion, in place of {before}.")


def _bytes(size: int) -> str:
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
