"""The Label Studio source against a real server."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import DataError
from rlhf.feedback.annotation_servers.label_studio import LabelStudioReader, connect
from rlhf.feedback.annotation_servers.settings import LabelStudioSource, LabelStudioTarget
from rlhf.feedback.ledger import history
from rlhf.feedback.ledger.ingest import ingest_into_ledger
from rlhf.feedback.ledger.state import read_state
from rlhf.feedback.push import RankingItem, push_prompts
from rlhf.feedback.rows import AnnotationRow, Message
from rlhf.feedback.settings import FeedbackSettings

from .label_studio_stack import LabelStudioStack
from .proxy import FailingProxy

# A server that starts on a busy machine takes minutes.
pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]

CONFIG = """<View>
  <Text name="prompt" value="$prompt"/>
  <Text name="response-1" value="$response-1"/><Text name="response-2" value="$response-2"/>
  <Pairwise name="better" toName="response-1,response-2"/>
  <Rating name="quality" toName="response-1" maxRating="5"/>
  <Choices name="tone" toName="response-1" choice="single">
    <Choice value="kind"/><Choice value="rude"/>
  </Choices>
  <Choices name="issues" toName="response-2" choice="multiple">
    <Choice value="short"/><Choice value="wrong"/>
  </Choices>
  <TextArea name="corrected" toName="response-2"/>
</View>"""


class Desk:
    """A fresh project with three annotators and ``size`` tasks."""

    def __init__(self, stack: LabelStudioStack, title: str, size: int) -> None:
        self.stack = stack
        self.connection = connect(stack.url, "LABEL_STUDIO_TOKEN", 10)
        project = {"title": title, "label_config": CONFIG, "maximum_annotations": 3}
        self.project = self.send("POST", "/api/projects", project)["id"]
        self.add(range(size))
        listed = self.connection.get("/api/tasks", doing="test", project=self.project, page_size=1000)
        self.tasks = sorted(task["id"] for task in listed["tasks"])
        self.users = {
            name: self.send("POST", "/api/users", {"email": f"{name}.{title}@example.com", "username": name})[
                "id"
            ]
            for name in ("ann", "ben", "cem")
        }

    def send(self, method: str, path: str, body: Any = None) -> Any:
        response = self.connection.send(method, path, doing="test", json=body)
        return response.json() if response.content else None

    def add(self, numbers: range) -> None:
        tasks = [
            {"data": {"prompt": f"Parcel {n}?", "response-1": "On its way.", "response-2": "No idea."}}
            for n in numbers
        ]
        self.send("POST", f"/api/projects/{self.project}/import", tasks)

    def annotate(self, annotator: str, task: int, *results: dict[str, Any], **more: Any) -> int:
        body = {"completed_by": self.users[annotator], "result": results, **more}
        return int(self.send("POST", f"/api/tasks/{self.tasks[task]}/annotations/", body)["id"])

    def reader(self, **more: Any) -> LabelStudioReader:
        settings = {
            "url": self.stack.url,
            "project": self.project,
            "name": "desk",
            "overlap_seconds": 0,
            **more,
        }
        return LabelStudioReader(LabelStudioSource.model_validate(settings))


def result(name: str, kind: str, to: str, **value: Any) -> dict[str, Any]:
    return {"from_name": name, "to_name": to, "type": kind, "value": value}


def rows(source: LabelStudioReader, watermark: Any = None) -> list[AnnotationRow]:
    outcomes = list(source.read_since(watermark))
    assert all(isinstance(outcome, AnnotationRow) for outcome in outcomes)
    return [outcome for outcome in outcomes if isinstance(outcome, AnnotationRow)]


LEFT = result("better", "pairwise", "response-1", selected="left")
RIGHT = result("better", "pairwise", "response-1", selected="right")


def test_what_three_annotators_did_comes_back_as_rows(label_studio_stack: LabelStudioStack) -> None:
    desk = Desk(label_studio_stack, "rows", 4)
    desk.annotate("ann", 0, LEFT, result("quality", "rating", "response-1", rating=4))
    desk.annotate("ben", 0, RIGHT, result("tone", "choices", "response-1", choices=["kind"]))
    desk.annotate("cem", 0, result("issues", "choices", "response-2", choices=["wrong"]))
    desk.annotate("ann", 1, was_cancelled=True)
    desk.annotate("ben", 1, result("corrected", "textarea", "response-2", text=["It is at your door."]))
    quality = result("quality", "rating", "response-1", rating=2)
    desk.send("POST", f"/api/tasks/{desk.tasks[2]}/drafts", {"result": [quality]})
    desk.send(
        "POST", "/api/predictions", {"task": desk.tasks[3], "model_version": "model-a", "result": [quality]}
    )
    found = [
        (row.record_id, row.annotator.split(".")[0], row.question, row.kind, row.value, row.status)
        for row in rows(desk.reader())
    ]
    first, second, third, fourth = (str(task) for task in desk.tasks)
    assert found == [
        (first, "ann", "better", "comparison", 0, "submitted"),
        (first, "ann", "quality", "rating", 4.0, "submitted"),
        (first, "ben", "better", "comparison", 1, "submitted"),
        (first, "ben", "tone", "label", "kind", "submitted"),
        (first, "cem", "issues/short", "label", "not short", "submitted"),
        (first, "cem", "issues/wrong", "label", "wrong", "submitted"),
        (second, "ann", "", "demonstration", "", "discarded"),
        (second, "ben", "corrected", "text-edit", "It is at your door.", "submitted"),
        (third, "owner@example", "quality", "rating", 2.0, "draft"),
        (fourth, "suggestion:model-a", "quality", "rating", 2.0, "draft"),
        (fourth, "unknown", "", "demonstration", "", "draft"),
    ]


def test_only_changed_tasks_are_read_again_and_losses_cause_a_full_scan(
    label_studio_stack: LabelStudioStack,
) -> None:
    desk = Desk(label_studio_stack, "changes", 4)
    first = desk.annotate("ann", 0, LEFT)
    second = desk.annotate("ben", 1, LEFT)
    source = desk.reader()
    assert {row.record_id for row in rows(source)} == {str(task) for task in desk.tasks}
    assert source.complete
    assert rows(source, source.watermark) == []
    assert not source.complete
    desk.send("PATCH", f"/api/annotations/{first}/", {"result": [RIGHT]})
    (changed,) = rows(source, source.watermark)
    assert (changed.value, changed.record_id, source.complete) == (1, str(desk.tasks[0]), False)
    desk.send("DELETE", f"/api/annotations/{second}/")
    left = rows(source, source.watermark)
    assert source.complete
    assert not [row for row in left if row.annotator.startswith("ben")]
    desk.send("DELETE", f"/api/tasks/{desk.tasks[3]}/")
    left = rows(source, source.watermark)
    assert (source.complete, str(desk.tasks[3]) in {row.record_id for row in left}) == (True, False)


def test_an_annotation_that_is_skipped_later_ends_at_the_next_ingest_and_nothing_new_writes_nothing(
    label_studio_stack: LabelStudioStack, tmp_path: Path
) -> None:
    desk = Desk(label_studio_stack, "skipped", 3)
    first = desk.annotate("ann", 0, LEFT)
    desk.annotate("ben", 0, RIGHT)
    source = {"type": "label_studio", "url": label_studio_stack.url, "project": desk.project}
    settings = FeedbackSettings.model_validate(
        {"sources": [source], "ledger": {"url": str(tmp_path / "ledger")}}
    )

    def judged() -> list[tuple[str, str, str]]:
        state = read_state(ingest_into_ledger(settings).reference).to_pylist()
        return sorted(
            (row["annotator"].split(".")[0], row["kind"], row["status"])
            for row in state
            if row["record_id"] == str(desk.tasks[0])
        )

    assert judged() == [("ann", "comparison", "submitted"), ("ben", "comparison", "submitted")]
    desk.send("PATCH", f"/api/annotations/{first}/", {"was_cancelled": True, "result": []})
    for _ in range(3):
        assert judged() == [("ann", "demonstration", "discarded"), ("ben", "comparison", "submitted")]
    assert len(history.log(str(tmp_path / "ledger"))) == 2


def test_503s_and_dropped_connections_cost_no_task(label_studio_stack: LabelStudioStack) -> None:
    desk = Desk(label_studio_stack, "failing", 23)
    whole = rows(desk.reader())

    def fails(number: int, path: str) -> int | None:
        return {0: 503, 1: 0, 2: None}[number % 3]

    with FailingProxy(label_studio_stack.url, fails) as proxy:
        assert rows(desk.reader(url=proxy.url, page_size=5)) == whole
    assert len(whole) == 23


def test_an_access_token_that_ran_out_is_renewed_in_the_middle_of_a_read(
    label_studio_stack: LabelStudioStack,
) -> None:
    desk = Desk(label_studio_stack, "expired", 12)
    refused: list[str] = []

    def fails(number: int, path: str) -> int | None:
        if path.startswith("/api/tasks") and len(refused) < 1 and number > 8:
            refused.append(path)
            return 401
        return None

    with FailingProxy(label_studio_stack.url, fails) as proxy:
        assert len(rows(desk.reader(url=proxy.url, page_size=2))) == 12
    assert len(refused) == 1


def test_what_is_wrong_is_said_in_one_sentence(
    label_studio_stack: LabelStudioStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(label_studio_stack, "wrong", 1)
    monkeypatch.setenv("BAD_TOKEN", "not-a-token")
    for more, said in (
        ({"key_variable": "BAD_TOKEN"}, "does not accept the key in BAD_TOKEN"),
        ({"project": 9999}, "has no project 9999"),
        ({"mapping": {"questions": {"helpful": {"kind": "rating"}}}}, "has no question helpful but better"),
    ):
        problem = desk.reader(**more).problem()
        assert problem is not None
        assert said in problem
        assert "not-a-token" not in problem


def test_pushed_prompts_come_back_and_are_pushed_once(label_studio_stack: LabelStudioStack) -> None:
    for completions in (("Yes.", "No."), ("Yes.", "No.", "Maybe.")):
        target = LabelStudioTarget(url=label_studio_stack.url, project=f"push of {len(completions)}")
        items = [RankingItem((Message(role="user", content=f"Question {n}?"),), completions) for n in (1, 2)]
        assert [push_prompts(target, items), push_prompts(target, items)] == [2, 0]
        connection = connect(label_studio_stack.url, "LABEL_STUDIO_TOKEN", 10)
        projects = connection.get("/api/projects", doing="test", page_size=1000)["results"]
        project = next(found["id"] for found in projects if found["title"] == target.project)
        source = LabelStudioReader(LabelStudioSource(url=label_studio_stack.url, project=project))
        pushed = rows(source)
        assert [row.prompt for row in pushed] == [item.prompt for item in items]
        if len(completions) == 2:
            answer, judged = RIGHT | {"from_name": "ranking"}, ("comparison", 1)
        else:
            ranked = {"ranking": ["response-2", "response-3", "response-1"]}
            answer = result("ranking", "ranker", "responses", ranker=ranked)
            judged = ("ranking", [3, 1, 2])
        connection.send(
            "POST", f"/api/tasks/{pushed[0].record_id}/annotations/", doing="test", json={"result": [answer]}
        )
        (row,) = [row for row in rows(source) if row.status == "submitted"]
        assert (row.kind, row.value) == judged
        assert row.responses == completions


def test_a_server_killed_in_the_middle_of_a_read_is_waited_for(label_studio_stack: LabelStudioStack) -> None:
    desk = Desk(label_studio_stack, "killed", 12)
    whole = rows(desk.reader())
    reading = desk.reader(page_size=4, patience_seconds=120).read()
    begun = [next(reading) for _ in range(2)]
    label_studio_stack.server.kill()

    def later() -> None:
        time.sleep(1)
        label_studio_stack.start_server()

    restart = threading.Thread(target=later)
    restart.start()
    assert [*begun, *reading] == whole
    restart.join()


def test_a_server_that_stays_dead_is_an_error_and_never_a_short_read(
    label_studio_stack: LabelStudioStack,
) -> None:
    desk = Desk(label_studio_stack, "dead", 8)

    def fails(number: int, path: str) -> int | None:
        return 502 if path.startswith("/api/tasks") and number > 8 else None

    with FailingProxy(label_studio_stack.url, fails) as proxy:
        source = desk.reader(url=proxy.url, page_size=2, patience_seconds=1)
        with pytest.raises(DataError, match=r"does not answer \(status 502\) while reading tasks after"):
            list(source.read())
    assert (source.complete, source.watermark) == (False, None)
