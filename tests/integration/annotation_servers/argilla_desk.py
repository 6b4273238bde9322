"""A dataset on a real Argilla server with what annotators do to one: overlap, disagreement, ties, drafts,
discards, and answers to every type of question."""

from dataclasses import dataclass, field
from typing import Any

import argilla
import httpx

ANNOTATORS = ("ann", "ben", "cem")
QUESTIONS = 7


def settings() -> argilla.Settings:
    responses = ["response-1", "response-2"]
    return argilla.Settings(
        fields=[argilla.ChatField("prompt"), argilla.TextField("context", required=False)]
        + [argilla.TextField(name) for name in responses],
        questions=[
            argilla.RankingQuestion("ranking", values=responses, required=True),
            argilla.LabelQuestion("better", labels=[*responses, "tie"], required=False),
            argilla.RatingQuestion("quality-of-response-1", values=[1, 2, 3, 4, 5], required=False),
            argilla.TextQuestion("corrected-response-1", required=False),
            argilla.MultiLabelQuestion("issues-of-response-2", labels=["rude", "wrong"], required=False),
            argilla.TextQuestion("comment", required=False),
            argilla.SpanQuestion("span", field="response-1", labels=["x"], required=False),
        ],
        distribution=argilla.TaskDistribution(min_submitted=2),
    )


@dataclass
class ArgillaDesk:
    """A fresh workspace and dataset with ``size`` records and nobody's answers."""

    url: str
    key: str
    workspace: str
    size: int
    ids: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        owner = argilla.Argilla(api_url=self.url, api_key=self.key)
        self.owner: httpx.Client = owner.http_client
        workspace = argilla.Workspace(self.workspace, client=owner).create()
        self.annotators: dict[str, httpx.Client] = {}
        for name in ANNOTATORS:
            user = argilla.User(
                username=f"{name}.{self.workspace}", password="only-for-tests", role="annotator", client=owner
            ).create()
            user.add_to_workspace(workspace)
            key = self.owner.get(f"/api/v1/users/{user.id}").json()["api_key"]
            self.annotators[name] = httpx.Client(base_url=self.url, headers={"X-Argilla-Api-Key": key})
        dataset = argilla.Dataset("replies", workspace=workspace, settings=settings(), client=owner).create()
        self.dataset = str(dataset.id)
        self.add(range(self.size))
        self.ids = [record["id"] for record in self.listed()]

    def add(self, numbers: range) -> None:
        """Records with a suggestion each."""
        questions = self.owner.get(f"/api/v1/datasets/{self.dataset}/questions").json()["items"]
        rating = next(q["id"] for q in questions if q["name"] == "quality-of-response-1")
        items = [
            {
                "external_id": f"record-{number}",
                "fields": {
                    "prompt": [{"role": "user", "content": f"Where is parcel {number}?"}],
                    "context": "Parcels take two days." if number % 2 else None,
                    "response-1": f"Parcel {number} is on its way.",
                    "response-2": "No idea.",
                },
                "suggestions": [{"question_id": rating, "value": 3, "agent": "model-a", "score": 0.5}],
            }
            for number in numbers
        ]
        for start in range(0, len(items), 100):
            self.owner.put(
                f"/api/v1/datasets/{self.dataset}/records/bulk", json={"items": items[start : start + 100]}
            ).raise_for_status()

    def listed(self) -> list[dict[str, Any]]:
        found = self.owner.get(
            f"/api/v1/datasets/{self.dataset}/records", params={"limit": 1000, "include": "responses"}
        )
        items: list[dict[str, Any]] = found.json()["items"]
        return items

    def answer(self, annotator: str, record: int, status: str, **values: Any) -> str:
        """A response over the API that the web pages use; question names with _ for -."""
        given = {name.replace("_", "-"): {"value": value} for name, value in values.items()}
        body = {"status": status, **({"values": given} if given else {})}
        response = self.annotators[annotator].post(f"/api/v1/records/{self.ids[record]}/responses", json=body)
        if given:
            response.raise_for_status()
            return str(response.json()["id"])
        # Without values the server stores the response and then answers 500.
        return ""

    def edit(self, annotator: str, response: str, **values: Any) -> None:
        given = {name.replace("_", "-"): {"value": value} for name, value in values.items()}
        self.annotators[annotator].put(
            f"/api/v1/responses/{response}", json={"status": "submitted", "values": given}
        ).raise_for_status()

    def delete_response(self, annotator: str, response: str) -> None:
        self.annotators[annotator].delete(f"/api/v1/responses/{response}").raise_for_status()

    def delete_record(self, record: int) -> None:
        self.owner.delete(
            f"/api/v1/datasets/{self.dataset}/records", params={"ids": self.ids[record]}
        ).raise_for_status()


def ranked(first: int, second: int) -> list[dict[str, Any]]:
    return [{"value": "response-1", "rank": first}, {"value": "response-2", "rank": second}]
