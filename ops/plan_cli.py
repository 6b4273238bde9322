"""``rlhf plan``: the forecast as a table, and a refusal where a step cannot fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.table import Table

from ops.console import print_table
from rlhf.errors import ConfigError

if TYPE_CHECKING:  # the command line's help loads neither torch nor ZenML
    from ops.plan import Plan


@click.command()
@click.argument("config")
@click.argument("overrides", nargs=-1)
@click.option("--keep-stack", is_flag=True, help="Plan for the active stack instead of rlhf-local.")
@click.option("--calibrate", is_flag=True, help="Time the stages in a short run first.")
def plan(config: str, overrides: tuple[str, ...], keep_stack: bool, calibrate: bool) -> None:
    """Say what a run of CONFIG will take, and refuse what cannot fit. Starts nothing."""
    from ops.plan import plan as make

    if calibrate:
        click.echo("A short run of each stage is being timed, which takes minutes.", err=True)
    made = make(config, overrides, stack=not keep_stack, calibrated=calibrate)
    print_table(_table(made))
    click.echo(_total(made))
    if made.shortages:
        raise ConfigError("\n".join(map(str, made.shortages)))


def _table(made: Plan) -> Table:
    table = Table("step", "seconds", "known from", "peak GiB", "known from", "comes from the cache of")
    for step in made.forecast.steps:
        seconds = "" if step.seconds is None else f"{step.seconds:.1f}"
        peak = "" if step.peak_bytes is None else f"{step.peak_bytes / 2**30:.2f}"
        table.add_row(step.step, seconds, step.seconds_from, peak, step.peak_from, step.cached_from or "")
    return table


def _total(made: Plan) -> str:
    seconds, peak = made.forecast.seconds, made.forecast.peak_bytes
    cost = made.forecast.cost(made.settings.price_per_hour, made.settings.gpus)
    time = f"{seconds:.0f} s" if seconds is not None else "unknown (--calibrate finds it out)"
    memory = f"{peak / 2**30:.2f} of {made.available / 2**30:.1f} GiB ({made.device})" if peak else "nothing"
    paid = f", cost {cost:.2f} {made.settings.currency}" if cost is not None else ""
    return f"In all: time {time}, most memory {memory}{paid}."
