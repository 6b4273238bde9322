"""``rlhf schedule``: retraining checks by themselves."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import click

from rlhf.errors import ConfigError


@click.group()
def schedule() -> None:
    """Retraining checks on a timetable."""


_CRON = click.option(
    "--cron", help="When, as in '0 3 * * 1'; by default the config's schedule.cron_expression."
)
_NAME = click.option("--name", help="Name of the schedule; by default the config's.")


@schedule.command()
@click.argument("config")
@click.argument("overrides", nargs=-1)
@_CRON
@_NAME
@click.option("--with", "backend", type=click.Choice(["systemd", "cron"]), help="By default what is there.")
@click.option("--keep-stack", is_flag=True, help="Run on the active stack instead of rlhf-local.")
def install(
    config: str,
    overrides: tuple[str, ...],
    cron: str | None,
    name: str | None,
    backend: str | None,
    keep_stack: bool,
) -> None:
    """Check CONFIG for new feedback regularly, by a systemd user timer or a crontab entry."""
    from ops import schedules

    where, when, default = _asked(config, overrides, cron)
    using: schedules.Backend = "systemd" if backend == "systemd" else "cron"
    if backend is None:
        using = schedules.available_backend()
    made = schedules.Schedule(name or default, where, overrides, when, using, keep_stack)
    schedules.install(made)
    click.echo(
        f"Installed {made.name} ({when}) with {using}. Remove it with: rlhf schedule remove {made.name}"
    )


@schedule.command(name="list")
def list_() -> None:
    """List this installation's schedules."""
    from ops import schedules

    for found in schedules.installed():
        click.echo(
            f"{found.name}: {found.cron} by {found.backend}: {' '.join([found.config, *found.overrides])}"
        )


@schedule.command()
@click.argument("name")
def remove(name: str) -> None:
    """Take the schedule NAME out of the timetable."""
    from ops import schedules

    schedules.remove(name)
    click.echo(f"Removed {name}.")


@schedule.command()
@click.argument("config")
@click.argument("overrides", nargs=-1)
@click.option("--as", "kind", type=click.Choice(["kubernetes", "github", "systemd", "cron"]), required=True)
@_CRON
@_NAME
@click.option("--image", help="Container image, for kubernetes.")
@click.option(
    "--secret", "secrets", multiple=True, help="Secret (kubernetes) or secrets (github) to pass on."
)
def render(
    config: str,
    overrides: tuple[str, ...],
    kind: str,
    cron: str | None,
    name: str | None,
    image: str | None,
    secrets: tuple[str, ...],
) -> None:
    """Print the timetable's entry, and change nothing."""
    from ops import schedule_manifests, schedules

    where, when, default = _asked(config, overrides, cron)
    name = name or default
    if kind == "kubernetes":
        if image is None or len(secrets) != 1:
            raise ConfigError("A CronJob needs --image and one --secret (the Secret's name); give both.")
        text = schedule_manifests.kubernetes(name, where, overrides, when, image=image, secret=secrets[0])
    elif kind == "github":
        text = schedule_manifests.github(name, where, overrides, when, secrets=secrets)
    elif kind == "systemd":
        units = schedules.systemd_units(schedules.Schedule(name, where, overrides, when, "systemd"))
        text = "\n".join(f"# rlhf-{name}.{suffix}\n{unit}" for suffix, unit in units.items())
    else:
        lines = schedules.crontab_lines(schedules.Schedule(name, where, overrides, when, "cron"))
        text = "\n".join(lines) + "\n"
    click.echo(text, nl=False)


@schedule.command()
@click.argument("name")
@click.option("--if-missed", is_flag=True, help="Only if it was due since it last began.")
def run(name: str, if_missed: bool) -> None:
    """Start the check of the schedule NAME now, unless it is at work. What timetables call."""
    from ops import schedules

    status = schedules.run(name, if_missed=if_missed)
    sys.exit(status or 0)


def _asked(config: str, overrides: tuple[str, ...], cron: str | None) -> tuple[str, str, str]:
    """The config as other places find it, when it is due, and what the schedule is called."""
    from ops import environment
    from ops.cron import last_due
    from ops.run_config import apply_overrides, checked, find_config, read_config

    path = find_config(config)
    read = apply_overrides(read_config(path), overrides)
    checked(read)
    expression = cron or (read.get("schedule") or {}).get("cron_expression")
    if expression is None:
        raise ConfigError(
            f"When is {config} due? Give --cron or, in the config, schedule.cron_expression, as in "
            "'0 3 * * 1'."
        )
    last_due(expression, datetime.now(UTC))
    where = path.stem if path.parent == environment.CONFIGS else str(path.resolve())
    return where, expression, path.stem.lower()


@schedule.command()
@click.argument("name")
@click.option("--port", default=8239, show_default=True, help="On 127.0.0.1.")
@click.option(
    "--secret-variable", default="RLHF_WEBHOOK_SECRET", show_default=True, help="Names the variable."
)
@click.option("--quiet", default=300.0, show_default=True, help="Seconds without an event before a check.")
@click.option("--at-most", default=3600.0, show_default=True, help="Seconds that a check waits in all.")
@click.option("--event", "events", multiple=True, default=["response.created", "response.updated"])
def listen(
    name: str, port: int, secret_variable: str, quiet: float, at_most: float, events: tuple[str, ...]
) -> None:
    """Start the check of the schedule NAME when signed webhooks say that feedback came in."""
    import os

    from ops import schedules
    from ops.webhook import Debounced, receiver

    schedules.get(name)
    secret = os.environ.get(secret_variable)
    if not secret:
        raise ConfigError(f"The environment variable {secret_variable} holds no secret; export it.")
    check = Debounced(lambda: schedules.run(name), quiet=quiet, at_most=at_most)
    with receiver(port, secret, check.event, frozenset(events)) as server:
        click.echo(
            f"Listening on http://127.0.0.1:{server.server_port} for signed webhooks. Stop with Ctrl-C."
        )
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            click.echo("Stopped.")
    check.close()
