import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rlhf.feedback.ledger.ingest import LedgerIngest, ingest_into_ledger
from rlhf.feedback.settings import FeedbackSettings


def judgement(record: str, value: Any = 0, annotator: str = "ada", **more: Any) -> dict[str, Any]:
    """A comparison in the annotation-rows layout."""
    return {
        "record_id": record,
        "prompt": [{"role": "user", "content": f"question of {record}"}],
        "responses": ["one", "two"],
        "kind": "comparison",
        "value": value,
        "question": "Which?",
        "annotator": annotator,
        **more,
    }


class Desk:
    """A ledger and the files that feed it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = str(folder / "ledger")

    def write(self, rows: Iterable[Mapping[str, Any]], name: str = "votes") -> None:
        (self.folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))

    def settings(self, names: Sequence[str] = ("votes",)) -> FeedbackSettings:
        return FeedbackSettings.model_validate(
            {
                "sources": [{"type": "file", "path": self.folder / f"{name}.jsonl"} for name in names],
                "ledger": {"url": self.url},
            }
        )

    def ingest(self, *names: str) -> LedgerIngest:
        return ingest_into_ledger(self.settings(names or ("votes",)))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)
