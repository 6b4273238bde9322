"""Argilla 2 as a source: the records of one dataset with every annotator's responses, over its HTTP API.

The SDK's own reading is not used: it ends early, with a warning, when one request among hundreds fails; it
cannot read a discarded response without values; and it drops ties and timestamps. Its client is the HTTP
client used here, less the patience.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from rlhf.errors import ConfigError, DataError
from rlhf.feedback.annotation_servers.answers import SUGGESTION
from rlhf.feedback.annotation_servers.connection import Connection, key_from
from rlhf.feedback.annotation_servers.reader import OPENING_SECONDS, AnsweredRecord, ServerReader, Watermark
from rlhf.feedback.annotation_servers.schema import Answers, Field, FieldType, Question, QuestionType, Schema
from rlhf.feedback.annotation_servers.settings import ArgillaSource
from rlhf.feedback.rows import sha256_of

logger = logging.getLogger(__name__)

_SCANS = 3
"""Attempts at a listing in which nothing was deleted meanwhile."""
_FIELD_TYPES: Mapping[str, FieldType] = {"text": "text", "chat": "chat"}
_QUESTION_TYPES: Mapping[str, QuestionType] = {
    "text": "text",
    "rating": "rating",
    "label_selection": "label",
    "multi_label_selection": "multi-label",
    "ranking": "ranking",
    "span": "span",
}


class ArgillaReader(ServerReader):
    """A dataset on an Argilla 2 server."""

    layout = "argilla"

    def __init__(self, settings: ArgillaSource) -> None:
        super().__init__(settings)
        self._settings = settings
        self._annotators: dict[str, str] = {}
        self._questions: dict[str, str] = {}
        self._dataset = ""
        self._disturbed = False

    def _connect(self) -> Schema:
        settings = self._settings
        server = f"Argilla at {settings.api_url}"
        client = httpx.Client(
            base_url=settings.api_url,
            headers={"X-Argilla-Api-Key": key_from(settings.key_variable, server)},
            timeout=settings.timeout_seconds,
        )
        opening = Connection(client, server, settings.key_variable, patience=OPENING_SECONDS)
        workspace = self._workspace(opening)
        self._dataset = self._find_dataset(opening, workspace)
        fields = opening.get(f"/api/v1/datasets/{self._dataset}/fields", doing="reading its fields")
        questions = opening.get(f"/api/v1/datasets/{self._dataset}/questions", doing="reading its questions")
        self._questions = {question["id"]: question["name"] for question in questions["items"]}
        if settings.annotators == "name":
            # This answer holds everybody's keys: nothing of it but names may go anywhere.
            for user in opening.get(
                "/api/v1/users", doing="listing user names (`annotators: id` needs none)"
            )["items"]:
                self._annotators[user["id"]] = user["username"]
        self._connection = Connection(
            client, server, settings.key_variable, patience=settings.patience_seconds
        )
        return schema_of(fields["items"], questions["items"])

    def _workspace(self, connection: Connection) -> str:
        wanted = self._settings.workspace
        found = connection.get("/api/v1/me/workspaces", doing="listing workspaces")["items"]
        for workspace in found:
            if workspace["name"] == wanted:
                return str(workspace["id"])
        names = ", ".join(sorted(workspace["name"] for workspace in found)) or "none"
        raise ConfigError(
            f"sources: {connection.server} has no workspace '{wanted}' that the key may see, but {names}; "
            "correct `workspace`."
        )

    def _find_dataset(self, connection: Connection, workspace: str) -> str:
        wanted = self._settings.dataset
        found = connection.get("/api/v1/me/datasets", doing="listing datasets", workspace_id=workspace)[
            "items"
        ]
        for dataset in found:
            if dataset["name"] == wanted:
                return str(dataset["id"])
        names = ", ".join(sorted(dataset["name"] for dataset in found)) or "none"
        raise ConfigError(
            f"sources: {connection.server} has no dataset '{wanted}' in workspace "
            f"'{self._settings.workspace}', but {names}; correct `dataset`."
        )

    def _records(self, known: Watermark | None) -> Iterator[AnsweredRecord]:
        state = self._state()
        if known is not None and known.get("state") == state:
            # Bulk edits by an owner leave no trace in it: that is what the full scans are for.
            logger.info("source %s has not changed", self.name)
            self.watermark = self._marked(state=state)
            return
        self._disturbed = False
        for record in self._scanned():
            answered = tuple(answers_of(record, self._questions, self._annotators))
            yield AnsweredRecord(str(record["external_id"] or record["id"]), record["fields"], answered)
        self.complete = True
        self.watermark = self._marked(state=None if self._disturbed else state)

    def _state(self) -> dict[str, Any]:
        """What moves when annotators work or records come and go: taken before a scan, so that whatever
        changes during it is a change to the next."""
        base = f"/api/v1/datasets/{self._dataset}"
        dataset = self._connection.get(base, doing="reading the dataset")
        progress = self._connection.get(f"{base}/users/progress", doing="counting responses")
        counted = self._connection.get(f"{base}/records", doing="counting records", offset=0, limit=1)
        return {
            "dataset": self._dataset,
            "last_activity_at": dataset["last_activity_at"],
            # A digest, since watermarks are kept and names may be pseudonyms elsewhere.
            "responses": sha256_of(sorted(progress["users"], key=lambda user: str(user["username"]))),
            "records": counted["total"],
        }

    def _scanned(self) -> Iterator[dict[str, Any]]:
        """Every record once. Pages overlap by one record: a deletion shifts the rest, and shows there."""
        given: set[str] = set()
        for _ in range(_SCANS):
            listed: set[str] = set()
            undisturbed = True
            total, last = 0, None
            for offset, page in self._pages():
                items, total = page["items"], page["total"]
                if len(items) != min(self._settings.page_size, max(0, total - offset)):
                    undisturbed = False
                if offset and (not items or items[0]["id"] != last):
                    undisturbed = False
                for record in items:
                    listed.add(record["id"])
                    if record["id"] not in given:
                        given.add(record["id"])
                        yield record
                last = items[-1]["id"] if items else None
            if undisturbed and len(listed) == total:
                self._disturbed = self._disturbed or given != listed
                return
            self._disturbed = True
            logger.info("source %s: records came or went during the read; listing again", self.name)
        raise DataError(
            f"Records of '{self.name}' are deleted faster than they can be listed ({len(listed)} of {total} "
            "were seen); run again when nobody deletes records."
        )

    def _pages(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Pages with their offsets; the next is fetched while one is worked on."""
        size = self._settings.page_size
        with ThreadPoolExecutor(max_workers=1) as fetcher:
            offset, coming = 0, fetcher.submit(self._page, 0)
            while True:
                page = coming.result()
                more = offset + size < page["total"]
                if more:
                    coming = fetcher.submit(self._page, offset + size - 1)
                yield offset, page
                if not more:
                    return
                offset += size - 1

    def _page(self, offset: int) -> dict[str, Any]:
        page: dict[str, Any] = self._connection.get(
            f"/api/v1/datasets/{self._dataset}/records",
            doing=f"reading records from number {offset + 1:,} on",
            offset=offset,
            limit=self._settings.page_size,
            include="responses,suggestions",
        )
        return page


def schema_of(fields: Iterable[Mapping[str, Any]], questions: Iterable[Mapping[str, Any]]) -> Schema:
    """The schema in a dataset's fields and questions as the API gives them."""
    return Schema(
        tuple(Field(f["name"], _FIELD_TYPES.get(f["settings"]["type"], "other")) for f in fields),
        tuple(
            Question(
                q["name"],
                _QUESTION_TYPES.get(q["settings"]["type"], "other"),
                q.get("title") or "",
                tuple(str(option["value"]) for option in q["settings"].get("options") or ()),
            )
            for q in questions
        ),
    )


def answers_of(
    record: Mapping[str, Any], questions: Mapping[str, str], annotators: Mapping[str, str]
) -> Iterator[Answers]:
    """Everybody's responses to a record of the API, and what models suggested, by ``suggestion:<agent>`` as
    drafts.

    Args:
        questions: names by id.
        annotators: names by id; who is not among them appears by the id.
    """
    for response in record.get("responses") or ():
        user = response["user_id"]
        # A response that was discarded unanswered has null in place of its values.
        given = {name: answer_value(answer["value"]) for name, answer in (response["values"] or {}).items()}
        yield Answers(annotators.get(user, user), response["status"], utc(response["updated_at"]), given)
    suggested: dict[str, dict[str, Any]] = {}
    newest: dict[str, str] = {}
    for suggestion in record.get("suggestions") or ():
        agent = f"{SUGGESTION}{suggestion.get('agent') or 'unknown'}"
        name = questions.get(suggestion["question_id"])
        if name is not None:
            suggested.setdefault(agent, {})[name] = answer_value(suggestion["value"])
            newest[agent] = max(newest.get(agent, ""), utc(suggestion["updated_at"]))
    for agent, given in suggested.items():
        yield Answers(agent, "draft", newest[agent], given)


def answer_value(value: Any) -> Any:
    """An answer in the common form: rankings as pairs of option and rank."""
    if isinstance(value, list) and value and isinstance(value[0], Mapping) and "value" in value[0]:
        return [(item["value"], item.get("rank")) for item in value]
    return value


def utc(time: str) -> str:
    """Argilla's times are UTC and do not say so."""
    return time if time.endswith("Z") or "+" in time else f"{time}Z"
