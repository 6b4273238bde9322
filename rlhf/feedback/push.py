"""Prompts with sampled completions on their way to annotators: what is pushed, and how Argilla and Label
Studio take it. What comes back is read by :mod:`rlhf.feedback.annotation_servers` without any mapping."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import httpx

from rlhf.errors import ConfigError, DataError
from rlhf.feedback.annotation_servers.connection import Connection, key_from
from rlhf.feedback.annotation_servers.label_studio import connect
from rlhf.feedback.annotation_servers.settings import ArgillaTarget, LabelStudioTarget
from rlhf.feedback.rows import Message, sha256_of
from rlhf.models.settings_generation import GenerationSettings

logger = logging.getLogger(__name__)

RANKING = "ranking"
_BATCH = 200
_DRAWS = 2
"""Completions drawn for each that is wanted: equal ones cannot be ranked."""
_PATIENCE_SECONDS = 30.0
_INSTRUCTIONS = (
    "Rank the responses from best to worst. Give equal ranks only where you see no difference that matters."
)


@dataclass(frozen=True, slots=True)
class RankingItem:
    """A prompt and the different completions that annotators are to rank."""

    prompt: tuple[Message, ...]
    completions: tuple[str, ...]

    @property
    def id(self) -> str:
        """Equal for equal content: what is pushed twice is there once, and completions of another policy
        never take the place of those that were ranked."""
        return sha256_of([self.prompt, self.completions])[:24]


def sample_items(
    policy: Path,
    prompts: Sequence[tuple[Message, ...]],
    settings: GenerationSettings,
    *,
    completions: int,
    seed: int = 0,
) -> list[RankingItem]:
    """Each prompt with ``completions`` different samples of a policy. A prompt for which twice as many draws
    do not give that many different ones is left out, and counted in the log.

    Raises:
        ConfigError: fewer than two completions.
        DataError, ModelError: as :func:`rlhf.models.generation.generate`.
    """
    if completions < 2:
        raise ConfigError("Ranking needs two completions or more; raise --completions.")
    # Importing torch takes seconds that the other commands need not wait.
    from rlhf.models.generation import generate
    from rlhf.models.loading import load_policy, load_tokenizer

    draws = _DRAWS * completions
    repeated = [list(prompt) for prompt in prompts for _ in range(draws)]
    sampled = generate(load_policy(policy), load_tokenizer(policy), repeated, settings, seed=seed)
    items = []
    for at, prompt in enumerate(prompts):
        texts = (completion.text for completion in sampled[at * draws : (at + 1) * draws])
        different = tuple(dict.fromkeys(text for text in texts if text))[:completions]
        if len(different) == completions:
            items.append(RankingItem(prompt, different))
    if len(items) < len(prompts):
        logger.warning(
            "%d of %d prompts are left out: the policy gave fewer than %d different completions",
            len(prompts) - len(items),
            len(prompts),
            completions,
        )
    return items


def push_prompts(target: ArgillaTarget | LabelStudioTarget, items: Sequence[RankingItem]) -> int:
    """Push what is not there yet.

    Returns:
        How many records were added.

    Raises:
        ConfigError: no key, no such workspace, or a dataset or project that asks something else.
        DataError: nothing to push, items with unequal numbers of completions, or a server that refuses.
    """
    numbers = {len(item.completions) for item in items}
    if not numbers:
        raise DataError("There is nothing to push: no prompt has enough different completions.")
    if len(numbers) > 1:
        raise DataError("All prompts must come with equally many completions; push the others separately.")
    if isinstance(target, ArgillaTarget):
        return _push_to_argilla(target, items, numbers.pop())
    return _push_to_label_studio(target, items, numbers.pop())


def _names(completions: int) -> list[str]:
    return [f"response-{number}" for number in range(1, completions + 1)]


def _push_to_argilla(target: ArgillaTarget, items: Sequence[RankingItem], completions: int) -> int:
    server = f"Argilla at {target.api_url}"
    key = key_from(target.key_variable, server)
    # Waits for a server that is starting, and says in our words what is wrong with the key.
    probe = httpx.Client(base_url=target.api_url, headers={"X-Argilla-Api-Key": key}, timeout=60.0)
    connection = Connection(probe, server, target.key_variable, patience=_PATIENCE_SECONDS)
    workspaces = connection.get("/api/v1/me/workspaces", doing="listing workspaces")["items"]
    if target.workspace not in (names := sorted(workspace["name"] for workspace in workspaces)):
        raise ConfigError(
            f"{server} has no workspace '{target.workspace}' but {', '.join(names) or 'none'}; correct it or "
            "make one there."
        )
    import argilla  # a second, and only this needs it
    from argilla._exceptions import ArgillaError

    try:
        client = argilla.Argilla(api_url=target.api_url, api_key=key)
        workspace = client.workspaces(target.workspace)
        if target.dataset not in (dataset.name for dataset in workspace.datasets):
            settings = _argilla_settings(completions, target.overlap)
            dataset = argilla.Dataset(target.dataset, workspace=workspace, settings=settings, client=client)
            dataset.create()
            present = 0
        else:
            dataset = client.datasets(target.dataset, workspace=workspace)
            _require_same(server, target.dataset, {f.name for f in dataset.settings.fields}, completions)
            present = _argilla_total(connection, str(dataset.id))
        dataset.records.log(
            [
                argilla.Record(
                    id=item.id,
                    fields={
                        "prompt": [dict(message) for message in item.prompt],
                        **dict(zip(_names(completions), item.completions, strict=True)),
                    },
                )
                for item in items
            ],
            batch_size=min(_BATCH, len(items)),
        )
    except (ArgillaError, httpx.HTTPError) as error:
        raise DataError(f"{server} did not take the records ({error}); mend that and push again.") from error
    return _argilla_total(connection, str(dataset.id)) - present


def _argilla_settings(completions: int, overlap: int) -> Any:
    import argilla

    names = _names(completions)
    return argilla.Settings(
        guidelines=_INSTRUCTIONS,
        fields=[argilla.ChatField("prompt"), *(argilla.TextField(name) for name in names)],
        questions=[argilla.RankingQuestion(RANKING, values=names)],
        distribution=argilla.TaskDistribution(min_submitted=overlap),
    )


def _argilla_total(connection: Connection, dataset: str) -> int:
    listed = connection.get(
        f"/api/v1/datasets/{dataset}/records", doing="counting records", offset=0, limit=1
    )
    return int(listed["total"])


def _push_to_label_studio(target: LabelStudioTarget, items: Sequence[RankingItem], completions: int) -> int:
    connection = connect(target.url, target.key_variable, _PATIENCE_SECONDS)
    listed = connection.get("/api/projects", doing="listing projects", page_size=1000)["results"]
    found = [project for project in listed if project["title"] == target.project]
    config = label_config(completions)
    if not found:
        made = connection.send(
            "POST",
            "/api/projects",
            doing="making a project",
            json={
                "title": target.project,
                "label_config": config,
                "expert_instruction": _INSTRUCTIONS,
                "show_instruction": True,
                "maximum_annotations": target.overlap,
            },
        )
        project = made.json()["id"]
        known: set[str] = set()
    else:
        project = found[0]["id"]
        shown = connection.get(f"/api/projects/{project}", doing="reading the project")["label_config"]
        if shown != config:
            raise ConfigError(
                f"{connection.server} has a project '{target.project}' with another labelling configuration "
                "(or another number of completions); push to a new project."
            )
        known = _known_items(connection, project)
    new = [item for item in items if item.id not in known]
    # A batch must not be sent twice, so these are not tried again: the next push knows what has arrived.
    once = connect(target.url, target.key_variable, 0.0)
    for start in range(0, len(new), _BATCH):
        batch = [_task(item) for item in new[start : start + _BATCH]]
        once.send("POST", f"/api/projects/{project}/import", doing="adding tasks", json=batch)
    return len(new)


def label_config(completions: int) -> str:
    """Label Studio's interface: two completions side by side, or a list of more to be put in order."""
    prompt = '<Paragraphs name="prompt" value="$prompt" layout="dialogue" nameKey="role" textKey="content"/>'
    if completions == 2:
        first, second = _names(2)
        answer = (
            f'<Text name="{first}" value="${first}"/><Text name="{second}" value="${second}"/>'
            f'<Pairwise name="{RANKING}" toName="{first},{second}"/>'
        )
    else:
        answer = (
            f'<List name="responses" value="$responses" title={quoteattr("Responses")}/>'
            f'<Ranker name="{RANKING}" toName="responses"/>'
        )
    return f"<View>{prompt}{answer}</View>"


def _task(item: RankingItem) -> dict[str, Any]:
    data: dict[str, Any] = {"item": item.id, "prompt": [dict(message) for message in item.prompt]}
    named = dict(zip(_names(len(item.completions)), item.completions, strict=True))
    if len(named) == 2:
        data.update(named)
    else:
        data["responses"] = [
            {"id": name, "title": f"Response {number}", "body": text}
            for number, (name, text) in enumerate(named.items(), 1)
        ]
    return {"data": data}


def _known_items(connection: Connection, project: int) -> set[str]:
    known: set[str] = set()
    page = 1
    while True:
        listed = connection.get(
            "/api/tasks", doing="listing tasks", project=project, page=page, page_size=_BATCH, fields="all"
        )
        known |= {str(task["data"].get("item")) for task in listed["tasks"]}
        if page * _BATCH >= listed["total"]:
            return known
        page += 1


def _require_same(server: str, dataset: str, fields: Iterable[str], completions: int) -> None:
    if set(fields) != {"prompt", *_names(completions)}:
        raise ConfigError(
            f"{server} has a dataset '{dataset}' with other fields (or another number of completions); push "
            "to a new dataset."
        )
