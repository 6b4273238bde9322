"""``rlhf job``: the training of one step on several machines."""

from __future__ import annotations

import os
import time

import click

from rlhf.errors import ConfigError
from rlhf.tracking import NullSink

_SECONDS_BETWEEN_LINES = 10.0


@click.group()
def job() -> None:
    """Train for a step of a run on several machines."""


@job.command()
@click.argument("run")
@click.argument("step")
@click.argument("overrides", nargs=-1)
@click.option("--to", "place", help="Where to: a path, or a URL in the artifact store. By default, print it.")
def write(run: str, step: str, overrides: tuple[str, ...], place: str | None) -> None:
    """Write what STEP of the run named RUN trains as a job, with settings of the step overridden as
    key=value, such as processes=8 for each machine."""
    from ops.training_jobs import as_yaml, job_of_step, write_job

    made = job_of_step(run, step, overrides)
    if place is None:
        click.echo(as_yaml(made), nl=False)
        return
    write_job(made, place)
    click.echo(f"Wrote {place}. Start on every machine: rlhf job run {place}")


@job.command(name="run")
@click.argument("place")
def run_(place: str) -> None:
    """Do this machine's part of the job in the file PLACE, a path or a URL in the artifact store. ZenML's
    Kubernetes step operator (pod_count) and Kubeflow Trainer say in the environment which machine it is."""
    from ops.signals import ending_at_once, with_grace
    from ops.training_jobs import read_job, run_job
    from rlhf.training.machines import machines_of

    machines = machines_of(os.environ)
    with ending_at_once(), with_grace(60.0):
        run_job(read_job(place), machines, _Lines())
    click.echo("The last checkpoint is in the artifact store. Go on with: rlhf run --resume")


@job.command()
@click.argument("place")
@click.option("--name", default="rlhf-training", show_default=True, help="Of the TrainJob.")
@click.option("--machines", default=2, show_default=True, type=click.IntRange(min=1), help="Pods.")
@click.option("--image", required=True, help="Container image with this project installed.")
@click.option("--gpus", default=0, show_default=True, type=click.IntRange(min=0), help="Of each machine.")
@click.option("--cpus", default=4, show_default=True, type=click.IntRange(min=1), help="Of each machine.")
@click.option("--memory", default="16Gi", show_default=True, help="Of each machine.")
@click.option("--secret", help="Secret whose entries become environment variables.")
@click.option("--variable", "variables", multiple=True, help="Entry of the Secret, and the variable's name.")
@click.option("--runtime", default="torch-distributed", show_default=True, help="ClusterTrainingRuntime.")
def render(
    place: str,
    name: str,
    machines: int,
    image: str,
    gpus: int,
    cpus: int,
    memory: str,
    secret: str | None,
    variables: tuple[str, ...],
    runtime: str,
) -> None:
    """Print a TrainJob for Kubeflow Trainer that does the job in the file PLACE of the artifact store."""
    from ops.job_manifests import trainjob

    if "://" not in place:
        raise ConfigError(
            f"{place} is on this machine, where pods cannot read it; write the job to a URL of the store."
        )
    if bool(secret) != bool(variables):
        raise ConfigError("--secret and --variable belong together; give both, or neither.")
    text = trainjob(
        name, place, machines=machines, image=image, gpus=gpus, cpus=cpus, memory=memory, secret=secret,
        variables=variables, runtime=runtime,
    )  # fmt: skip
    click.echo(text, nl=False)


class _Lines(NullSink):
    """Progress as lines of a pod's log; the step reports the metrics when it takes the checkpoint up."""

    def __init__(self) -> None:
        self._latest = 0.0

    def progress(self, done: int, total: int, note: str = "") -> None:
        if done == total or time.monotonic() - self._latest >= _SECONDS_BETWEEN_LINES:
            self._latest = time.monotonic()
            click.echo(f"step {done} of {total}: {note}")
