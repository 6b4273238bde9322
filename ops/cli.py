"""The ``rlhf`` command. Each subcommand is a few lines over a function that scripts can call as well."""

import atexit
import gc
import logging
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from ops import environment

environment.configure()  # before anything imports ZenML, MLflow or torch

import click  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from ops import feedback_servers_cli  # noqa: E402
from ops.approval_cli import approve, gate, reject  # noqa: E402
from ops.console import add_row, console, print_table  # noqa: E402
from ops.export_cli import export  # noqa: E402
from ops.feedback_cli import feedback  # noqa: E402
from ops.job_cli import job  # noqa: E402
from ops.plan_cli import plan  # noqa: E402
from ops.registry_cli import prune, registry  # noqa: E402
from ops.schedule_cli import schedule  # noqa: E402
from rlhf.errors import InterruptedRunError, RLHFError  # noqa: E402

STOPPED = 75
"""Exit status of a run that was asked to stop and can be resumed (EX_TEMPFAIL of sysexits.h)."""
_PORT = click.IntRange(1, 65535)

# Python collects everything once more as it ends, which takes two seconds with ZenML and MLflow loaded.
atexit.register(gc.freeze)


class _Group(click.Group):
    """Ends with one sentence and exit status 1 instead of a stack trace when the user can mend the cause."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RLHFError as error:
            _fail(str(error))


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--verbose", is_flag=True, help="Log what happens in detail.")
def main(verbose: bool) -> None:
    """RLHF as a versioned pipeline: human feedback in, a champion policy out."""
    if verbose:
        os.environ["ZENML_LOGGING_VERBOSITY"] = "DEBUG"  # ZenML sets the root logger up when it is imported


main.add_command(feedback)
main.add_command(export)
main.add_command(plan)
main.add_command(schedule)
main.add_command(job)
main.add_command(approve)
main.add_command(reject)
main.add_command(gate)
main.add_command(registry)
main.add_command(prune)
feedback.add_command(feedback_servers_cli.push)
feedback.add_command(feedback_servers_cli.export)


@main.command()
def ls() -> None:
    """List the shipped configs and profiles: what each does, needs and takes."""
    from ops.profiles import shipped_profiles
    from ops.run_config import config_card, shipped_configs

    table = Table("config", "what it does", "needs", "takes", show_lines=True)
    for card in shipped_configs():
        add_row(table, card.name, card.summary, card.needs, card.takes)
    print_table(table)
    places = Table("profile", "where a config computes", "needs", show_lines=True)
    for path in shipped_profiles():
        card = config_card(path)
        add_row(places, card.name, card.summary, card.needs)
    print_table(places)


@main.command()
@click.argument("name")
@click.argument("path", type=click.Path(path_type=Path))
def cp(name: str, path: Path) -> None:
    """Copy the config NAME to PATH, to be changed there."""
    from ops.run_config import find_config

    source = find_config(name)
    target = path / source.name if path.is_dir() else path
    if target.exists():
        _fail(f"{target} exists already; choose another path or remove it.")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())
    click.echo(f"Copied to {target}. Change it and start it with: rlhf run {target}")


@main.command()
@click.argument("config")
@click.argument("overrides", nargs=-1)
def validate(config: str, overrides: tuple[str, ...]) -> None:
    """Check CONFIG (a name or a path) and say everything that is wrong with it."""
    from ops.run_config import apply_overrides, find_config, read_config
    from ops.run_config import validate as problems_of

    path = find_config(config)
    problems = problems_of(apply_overrides(read_config(path), overrides))
    for problem in problems:
        click.echo(str(problem), err=True)
    if problems:
        _fail(f"{len(problems)} problem{'s' * (len(problems) > 1)} in {path}.")
    click.echo(f"{path} is valid.")


@main.command()
@click.argument("config", required=False)
@click.argument("overrides", nargs=-1)
@click.option("--keep-stack", is_flag=True, help="Run on the active stack instead of rlhf-local.")
@click.option(
    "--resume/--no-resume",
    default=None,
    help="Go on with the newest run of the same settings even if it failed, and without CONFIG with the last "
    "one that was interrupted; or never. By default, go on if it was interrupted.",
)
@click.option(
    "--stop-grace",
    default=60.0,
    show_default=True,
    help="Seconds that a step may take after SIGTERM to write a checkpoint.",
)
def run(
    config: str | None, overrides: tuple[str, ...], keep_stack: bool, resume: bool | None, stop_grace: float
) -> None:
    """Run CONFIG (a name or a path), with settings overridden as key.path=value."""
    from ops import launch
    from ops.summary import print_summary

    if config is None and not resume:
        raise click.UsageError("Name a CONFIG, or give --resume to go on with the last interrupted run.")
    try:
        finished = launch.run(
            config, overrides, stack=not keep_stack, resume=resume, grace_seconds=stop_grace
        )
    except InterruptedRunError as error:
        _fail(str(error), status=STOPPED)
    except RLHFError:
        raise
    except Exception as error:
        # ZenML has already logged the trace of the failed step; the last word is for the user.
        _fail(launch.explain(error))
    if finished.goes_on:
        click.echo(f"The run {finished.name} goes on without this command; `rlhf runs` says how it ends.")
        return
    print_summary(finished.id, console())
    if finished.status != "completed":
        _fail(f"The run {finished.name} ended as {finished.status}.")


@main.command()
@click.argument("config")
@click.argument("overrides", nargs=-1)
@click.option("--keep-stack", is_flag=True, help="Run on the active stack instead of rlhf-local.")
def retrain(config: str, overrides: tuple[str, ...], keep_stack: bool) -> None:
    """Look for new feedback of CONFIG, and train if there is reason to."""
    from ops import launch
    from ops.summary import retraining_summary

    try:
        finished = launch.retrain(config, overrides, stack=not keep_stack)
    except RLHFError:
        raise
    except Exception as error:
        # ZenML has already logged the trace of the failed step; the last word is for the user.
        _fail(launch.explain(error))
    if finished is None:
        click.echo("The orchestrator has taken the schedule: see `zenml pipeline schedule list`.")
        return
    if finished.goes_on:
        click.echo(f"The check {finished.name} goes on without this command; `rlhf runs` says how it ends.")
        return
    click.echo(retraining_summary(finished.id))
    if finished.status != "completed":
        _fail(f"The check {finished.name} ended as {finished.status}.")


@main.command()
@click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(min=1), help="How many runs to show."
)
def runs(limit: int) -> None:
    """List the latest pipeline runs with their status and verdict."""
    from ops.summary import runs_table

    print_table(runs_table(limit))


@main.command()
@click.option("--zenml-port", default=8237, show_default=True, type=_PORT)
@click.option("--mlflow-port", default=5000, show_default=True, type=_PORT)
def ui(zenml_port: int, mlflow_port: int) -> None:
    """Serve the ZenML and MLflow UIs on this machine until interrupted."""
    from ops.ui import serve

    serve(zenml_port=zenml_port, mlflow_port=mlflow_port)


@main.command()
def env() -> None:
    """Print shell exports for using `zenml` and `mlflow` directly: eval "$(rlhf env)"."""
    click.echo(environment.shell_exports())


def _fail(message: str, *, status: int = 1) -> NoReturn:
    Console(stderr=True, highlight=False).print(f"[bold red]Error:[/] {_escape(message)}", soft_wrap=True)
    logging.shutdown()
    sys.stdout.flush()
    sys.exit(status)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


if __name__ == "__main__":
    main()
