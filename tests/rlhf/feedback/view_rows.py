"""Rows and what becomes of them, as the tests of the dataset views write them."""

from collections.abc import Iterable
from typing import Any

from rlhf.feedback.rows import AnnotationRow, Message, to_table
from rlhf.feedback.settings import DatasetSettings
from rlhf.feedback.views import Views, prepare

ALL_TRAIN = DatasetSettings(test_fraction=0, dev_fraction=0, near_duplicate_threshold=None)


def row(kind: str, value: Any, *responses: str, prompt: str = "Hi", **more: Any) -> AnnotationRow:
    messages = (Message(role="user", content=prompt),) if prompt else ()
    fields = {"record_id": "r", "source": "s", **more}
    return AnnotationRow(prompt=messages, responses=responses, kind=kind, value=value, **fields)  # type: ignore[arg-type]


def views(*rows: AnnotationRow, **how: Any) -> Views:
    return prepare(to_table(rows), ALL_TRAIN.model_copy(update=how))


def texts(view: Iterable[dict[str, Any]], *columns: str) -> list[tuple[Any, ...]]:
    """Rows of a view with messages as their text."""
    return [
        tuple(v[0]["content"] if isinstance(v := entry[column], list) else v for column in columns)
        for entry in view
    ]
