"""``rlhf feedback push`` and ``rlhf feedback export``: feedback on its way out, to annotators and into
spreadsheets. Attached to the ``rlhf feedback`` group."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click
from pydantic import ValidationError

from rlhf.errors import ConfigError, DataError, ModelError

if TYPE_CHECKING:
    from datasets import DatasetDict

    from rlhf.feedback.annotation_servers.settings import ArgillaTarget, LabelStudioTarget
    from rlhf.feedback.rows import Message

VIEWS = ("demonstrations", "comparisons", "ratings", "prompts", "text")


@click.command()
@click.option("--to", type=click.Choice(["argilla", "label_studio"]), required=True, help="Kind of server.")
@click.option("--url", required=True, help="Address of the server.")
@click.option("--workspace", default="", help="Argilla: workspace of the dataset.")
@click.option(
    "--dataset", required=True, help="Name of Argilla's dataset or title of Label Studio's project."
)
@click.option("--key-variable", default=None, help="Environment variable that holds the key.")
@click.option("--overlap", default=2, show_default=True, help="Annotators asked about each prompt.")
@click.option("--prompts", "count", default=100, show_default=True, help="How many prompts.")
@click.option("--completions", default=4, show_default=True, help="Different completions of each.")
@click.option("--split", default="train", show_default=True, help="Split that the prompts are taken from.")
@click.option("--policy", type=click.Path(path_type=Path), help="Policy directory; by default the champion.")
@click.option("--run", "run_name", help="Run whose prompts are used; by default the latest that has them.")
@click.option("--max-new-tokens", default=64, show_default=True, help="Longest completion, in tokens.")
@click.option("--temperature", default=1.0, show_default=True, help="Of the sampling.")
@click.option("--seed", default=0, show_default=True, help="Of the choice of prompts and of the sampling.")
def push(
    to: str,
    url: str,
    workspace: str,
    dataset: str,
    key_variable: str | None,
    overlap: int,
    count: int,
    completions: int,
    split: str,
    policy: Path | None,
    run_name: str | None,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> None:
    """Push prompts with sampled completions of the champion to annotators, for ranking."""
    from rlhf.feedback.push import push_prompts, sample_items
    from rlhf.models.settings_generation import GenerationSettings

    where = {"workspace": workspace, "dataset": dataset} if to == "argilla" else {"project": dataset}
    address = {"api_url": url} if to == "argilla" else {"url": url}
    key = {"key_variable": key_variable} if key_variable else {}
    target = _target(to, {**address, **where, **key, "overlap": overlap})
    sampling = GenerationSettings(max_new_tokens=max_new_tokens, temperature=temperature)
    prompts = _prompts(run_name, split, count, seed)
    items = sample_items(policy or _champion(), prompts, sampling, completions=completions, seed=seed)
    added = push_prompts(target, items)
    click.echo(
        f"{added} of {len(items)} records are new at {url}; read them back with a source of type {to}."
    )


@click.command()
@click.argument("view", type=click.Choice(VIEWS))
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--run", "run_name", help="Run whose view is written; by default the latest that has it.")
@click.option("--spreadsheet", is_flag=True, help="With byte order mark, and no cell that is a formula.")
def export(view: str, file: Path, run_name: str | None, spreadsheet: bool) -> None:
    """Write a VIEW of a run (demonstrations, comparisons, prompts, text) to a CSV FILE."""
    from rlhf.feedback.csv_export import write_csv

    rows = write_csv(_view(view, run_name), file, spreadsheet=spreadsheet)
    click.echo(f"{rows:,} rows in {file}.")


def _target(to: str, given: dict[str, object]) -> "ArgillaTarget | LabelStudioTarget":
    from rlhf.feedback.annotation_servers.settings import ArgillaTarget, LabelStudioTarget

    model = ArgillaTarget if to == "argilla" else LabelStudioTarget
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        option = (
            str(first["loc"][0]).replace("api_url", "url").replace("project", "dataset").replace("_", "-")
        )
        raise ConfigError(f"--{option}: {first['msg']}; correct it.") from error


def _prompts(run_name: str | None, split: str, count: int, seed: int) -> Sequence[tuple["Message", ...]]:
    import random

    view = _view("prompts", run_name)
    if split not in view:
        raise ConfigError(f"--split: there is no split '{split}' but {', '.join(view)}.")
    rows = view[split]
    chosen = sorted(random.Random(seed).sample(range(len(rows)), min(count, len(rows))))
    return [tuple(cast("list[Message]", rows[at]["prompt"])) for at in chosen]


def _champion() -> Path:
    from ops.registries import champion_directory, policy_registry

    version = policy_registry().champion()
    if version is None:
        raise ModelError("There is no champion yet; run a config until one is promoted, or name a --policy.")
    directory = champion_directory(version.as_champion())
    if directory is None:
        raise ModelError(f"Champion {version.version} has no directory; name a --policy.")
    return directory


def _view(name: str, run_name: str | None) -> "DatasetDict":
    from zenml.client import Client

    client = Client()
    if run_name is not None:
        try:
            runs = [client.get_pipeline_run(run_name)]
        except KeyError as error:
            raise ConfigError(f"--run: there is no run '{run_name}'; `rlhf runs` lists them.") from error
    else:
        runs = list(client.list_pipeline_runs(size=50, sort_by="desc:created", hydrate=True).items)
    for run in runs:
        step = run.steps.get("prepare_datasets")
        if step is not None and step.outputs.get(name):
            try:
                return cast("DatasetDict", step.outputs[name][0].load())
            except FileNotFoundError as error:
                raise DataError(
                    f"The view '{name}' of run '{run.name}' was deleted when feedback in it was erased; "
                    "start a run, which derives it anew."
                ) from error
    which = f"Run '{run_name}' has" if run_name else "No run has"
    raise DataError(f"{which} derived the view '{name}' yet; start one with `rlhf run`.")
