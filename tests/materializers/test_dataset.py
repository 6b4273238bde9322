"""Datasets as artifacts: equal rows are equal content, and what comes back is what went in."""

import uuid
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from zenml.client import Client

from materializers.dataset import DatasetMaterializer

ROWS = [{"prompt": [{"role": "user", "content": f"hi {i}"}], "weight": float(i)} for i in range(2500)]


def _saved(data: Dataset | DatasetDict, uri: Path) -> DatasetMaterializer:
    uri.mkdir(parents=True)
    materializer = DatasetMaterializer(uri=str(uri))
    materializer.save(data)
    return materializer


@pytest.fixture
def folder() -> Path:
    return Path(Client().active_stack.artifact_store.path) / f"dataset-tests-{uuid.uuid4().hex}"


def test_rows_come_back_as_they_were(folder: Path) -> None:
    data = DatasetDict(train=Dataset.from_list(ROWS), test=Dataset.from_list(ROWS[:1]))
    loaded: Any = _saved(data, folder / "a").load(DatasetDict)
    assert loaded["train"].to_list() == ROWS
    assert loaded["train"].features == data["train"].features


def test_equal_rows_have_equal_hashes_however_they_were_made(folder: Path) -> None:
    whole = Dataset.from_list(ROWS)
    selected = Dataset.from_list([*ROWS, *ROWS]).select(range(len(ROWS)))
    hashes = {
        _saved(data, folder / name).compute_content_hash(data)
        for name, data in {"whole": whole, "selected": selected}.items()
    }
    assert len(hashes) == 1


def test_a_changed_row_changes_the_hash(folder: Path) -> None:
    one, other = Dataset.from_list(ROWS), Dataset.from_list([*ROWS[:-1], {**ROWS[-1], "weight": -1.0}])
    assert _saved(one, folder / "one").compute_content_hash(one) != _saved(
        other, folder / "other"
    ).compute_content_hash(other)


def test_an_emptied_dataset_is_stored_empty(folder: Path) -> None:
    emptied = Dataset.from_list(ROWS).filter(lambda row: False)
    assert len(_saved(emptied, folder / "empty").load(Dataset)) == 0
