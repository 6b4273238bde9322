"""Label Studio as a source: the tasks of one project with all annotations, drafts and predictions.

Tasks are listed by ascending id, each page beginning after the last id of the one before, so that neither
new nor deleted tasks shift what is still to come. Known of 1.23: an annotation that is added, edited or
deleted moves its task's ``updated_at``, as do edits of the task and predictions; drafts do not, and deleted
tasks only show in the counts.
"""

import json
import logging
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import httpx

from rlhf.errors import ConfigError, DataError
from rlhf.feedback.annotation_servers.answers import SUGGESTION
from rlhf.feedback.annotation_servers.connection import Connection, key_from
from rlhf.feedback.annotation_servers.reader import OPENING_SECONDS, AnsweredRecord, ServerReader, Watermark
from rlhf.feedback.annotation_servers.schema import Answers, Field, FieldType, Question, QuestionType, Schema
from rlhf.feedback.annotation_servers.settings import LabelStudioSource

logger = logging.getLogger(__name__)

_FIELD_TAGS: Mapping[str, FieldType] = {
    "Text": "text",
    "HyperText": "text",
    "Header": "text",
    "Markdown": "text",
    "Paragraphs": "chat",
    "Chat": "chat",
    "List": "items",
}
_QUESTION_TAGS: Mapping[str, QuestionType] = {
    "Pairwise": "pairwise",
    "Rating": "rating",
    "Number": "rating",
    "Choices": "label",
    "TextArea": "text",
    "Ranker": "ranking",
    "Labels": "span",
    "HyperTextLabels": "span",
    "ParagraphLabels": "span",
}
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"
_SECOND = timedelta(seconds=1)
"""HTTP tells the time in whole seconds."""


class LabelStudioReader(ServerReader):
    """A project on a Label Studio server."""

    layout = "label-studio"

    def __init__(self, settings: LabelStudioSource) -> None:
        super().__init__(settings)
        self._settings = settings
        self._annotators: dict[str, str] = {}
        self._schema = Schema((), ())

    def _connect(self) -> Schema:
        settings = self._settings
        opening = connect(settings.url, settings.key_variable, OPENING_SECONDS, settings.timeout_seconds)
        project = self._project(opening)
        if settings.annotators == "name":
            users = opening.get("/api/users", doing="listing users (`annotators: id` needs none)")
            self._annotators = {str(user["id"]): user["email"] or user["username"] for user in users}
        self._connection = connect(
            settings.url, settings.key_variable, settings.patience_seconds, settings.timeout_seconds
        )
        self._schema = schema_of(project["label_config"])
        return self._schema

    def _project(self, connection: Connection) -> dict[str, Any]:
        listed = connection.get("/api/projects", doing="listing projects", page_size=1000)["results"]
        if self._settings.project not in (project["id"] for project in listed):
            known = ", ".join(f"{project['id']} ({project['title']})" for project in listed) or "none"
            raise ConfigError(
                f"sources: {connection.server} has no project {self._settings.project} that the token may "
                f"see, but {known}; correct `project`."
            )
        return self._project_now(connection)[0]

    def _project_now(self, connection: Connection) -> tuple[dict[str, Any], datetime | None]:
        """The project, and when the server said so."""
        return connection.get_dated(f"/api/projects/{self._settings.project}", doing="reading the project")

    def _records(self, known: Watermark | None) -> Iterator[AnsweredRecord]:
        project, begun = self._project_now(self._connection)
        counts = [
            project["task_number"],
            project["total_annotations_number"] + project["skipped_annotations_number"],
        ]
        if known is not None and any(now < then for now, then in zip(counts, known["counts"], strict=True)):
            logger.info("source %s has lost tasks or annotations since the last read: full scan", self.name)
            known = None
        newest, since = "", ""
        if known is not None:
            newest = str(known["updated_at"])
            since = newest if known["settled"] else self._less_overlap(newest)
        for task in self._tasks(since):
            newest = max(newest, task["updated_at"])
            answered = tuple(answers_of(task, self._annotators, self._schema))
            yield AnsweredRecord(str(task["id"]), task["data"], answered)
        self.complete = known is None
        settled = False
        if begun is not None and newest:
            settled = newest < self._less_overlap(begun.strftime(_TIME))
            # What changes while a long read lasts may be on a page that was read already.
            newest = min(newest, (begun + _SECOND).strftime(_TIME))
        self.watermark = self._marked(updated_at=newest, settled=settled, counts=counts)

    def _less_overlap(self, time: str) -> str:
        if not time:
            return ""
        begin = datetime.fromisoformat(time) - timedelta(seconds=self._settings.overlap_seconds)
        return begin.strftime(_TIME)

    def _tasks(self, since: str) -> Iterator[dict[str, Any]]:
        last = 0
        while True:
            page = self._connection.get(
                "/api/tasks",
                doing=f"reading tasks after number {last}",
                project=self._settings.project,
                page=1,
                page_size=self._settings.page_size,
                fields="all",
                query=json.dumps(_query(last, since)),
            )
            tasks = page["tasks"]
            if len(tasks) != min(self._settings.page_size, page["total"]):
                raise DataError(
                    f"{self._connection.server} gave {len(tasks)} of {page['total']} tasks after number "
                    f"{last} and calls that a page; nothing of this read is kept: run again."
                )
            yield from tasks
            if len(tasks) == page["total"]:
                return
            last = tasks[-1]["id"]


def connect(url: str, key_variable: str, patience: float, timeout: float = 60.0) -> Connection:
    """A connection that trades the personal access token in ``key_variable`` for short-lived ones as they
    run out. ``patience`` and ``timeout`` are in seconds.

    Raises:
        ConfigError: there is no token.
        DataError: the server does not answer or refuses the token.
    """
    server = f"Label Studio at {url}"
    token = key_from(key_variable, server)
    plain = Connection(httpx.Client(base_url=url, timeout=timeout), server, key_variable, patience=patience)

    def renewed() -> dict[str, str]:
        answer = plain.send(
            "POST",
            "/api/token/refresh",
            doing="exchanging the personal access token",
            json={"refresh": token},
        )
        return {"Authorization": f"Bearer {answer.json()['access']}"}

    client = httpx.Client(base_url=url, headers=renewed(), timeout=timeout)
    return Connection(client, server, key_variable, patience=patience, renew=renewed)


def _query(last: int, since: str) -> dict[str, Any]:
    """Label Studio's data-manager query: tasks after an id, changed since a time, by id."""
    items = [{"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": last}]
    if since:
        items.append(
            {"filter": "filter:tasks:updated_at", "operator": "greater", "type": "Datetime", "value": since}
        )
    return {"filters": {"conjunction": "and", "items": items}, "ordering": ["tasks:id"]}


def schema_of(label_config: str) -> Schema:
    """The schema in a labelling configuration.

    Raises:
        DataError: it is not XML.
    """
    try:
        root = ElementTree.fromstring(label_config)
    except ElementTree.ParseError as error:
        raise DataError(f"A Label Studio project's labelling configuration is not XML ({error}).") from error
    shown: dict[str, str] = {}
    fields: dict[str, FieldType] = {}
    questions = []
    for tag in root.iter():
        value = tag.get("value", "")
        if value.startswith("$") and "toName" not in tag.attrib:
            key = value[1:].split(".")[0]
            shown[tag.get("name", key)] = key
            fields.setdefault(key, _FIELD_TAGS.get(tag.tag, "other"))
    for tag in root.iter():
        if "toName" not in tag.attrib or "name" not in tag.attrib:
            continue
        about = tuple(shown[name] for name in re.split(r"\s*,\s*", tag.attrib["toName"]) if name in shown)
        kind = _QUESTION_TAGS.get(tag.tag, "other")
        if kind == "label" and tag.get("choice", "single") != "single":
            kind = "multi-label"
        if kind == "ranking" and tag.find("Bucket") is not None:
            kind = "other"
        options = tuple(choice.get("alias", choice.get("value", "")) for choice in tag.iter("Choice"))
        questions.append(Question(tag.attrib["name"], kind, options=options, about=about))
    return Schema(tuple(Field(name, kind) for name, kind in fields.items()), tuple(questions))


def answers_of(task: Mapping[str, Any], annotators: Mapping[str, str], schema: Schema) -> Iterator[Answers]:
    """Annotations of a task, drafts that are not yet one, and predictions as ``suggestion:<model>``; of
    several by one person or model, the latest.

    Args:
        annotators: e-mail addresses by id; who is not among them appears by the id.
    """
    single = frozenset(question.name for question in schema.questions if question.type == "label")
    found: dict[str, Answers] = {}

    def keep_latest(annotator: str, status: str, given: Mapping[str, Any]) -> None:
        answers = Answers(annotator, status, given["updated_at"], _values(given.get("result") or (), single))
        if annotator not in found or found[annotator].updated_at <= answers.updated_at:
            found[annotator] = answers

    for annotation in task.get("annotations") or ():
        by = annotation["completed_by"]
        user = str(by["id"] if isinstance(by, Mapping) else by)
        status = "discarded" if annotation["was_cancelled"] else "submitted"
        keep_latest(annotators.get(user, user), status, annotation)
    annotated = set(found)
    for draft in task.get("drafts") or ():
        if draft.get("annotation") is None:
            user = str(draft["created_username"]).rsplit(",", 1)[-1].strip()
            annotator = annotators.get(user, user)
            if annotator not in annotated:
                keep_latest(annotator, "draft", draft)
    for prediction in task.get("predictions") or ():
        agent = f"{SUGGESTION}{prediction.get('model_version') or 'unknown'}"
        keep_latest(agent, "draft", prediction)
    yield from found.values()


def _values(results: Iterable[Mapping[str, Any]], single: frozenset[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for result in results:
        value = result.get("value") or {}
        match result.get("type"):
            case "pairwise" if value.get("selected") in ("left", "right"):
                values[result["from_name"]] = int(value["selected"] == "right")
            case "rating":
                values[result["from_name"]] = value.get("rating")
            case "number":
                values[result["from_name"]] = value.get("number")
            case "choices":
                chosen = value.get("choices") or []
                is_one = result["from_name"] in single and len(chosen) == 1
                values[result["from_name"]] = chosen[0] if is_one else chosen
            case "textarea":
                text = value.get("text")
                values[result["from_name"]] = "\n".join(text) if isinstance(text, list) else text
            case "ranker":
                ranked = value.get("ranker")
                ids = next(iter(ranked.values()), []) if isinstance(ranked, Mapping) else ranked or []
                values[result["from_name"]] = [(str(item), rank) for rank, item in enumerate(ids, 1)]
    return values
