"""The publishers' files as rows: JSON Lines, CSV, TSV and JSON, each also gzipped."""

import csv
import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rlhf.errors import DataError
from rlhf.feedback.files import problem_with

T = TypeVar("T")


def read_rows(path: Path, required: Iterable[str], *, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a file in order, each after the name of its place.

    Args:
        required: columns that every row must have.
        key: the setting that names the file, for errors.

    Raises:
        DataError: the file is absent, damaged, or a row lacks a column.
    """
    wanted = set(required)
    for number, row in enumerate(_rows(path, key), 1):
        place = f"{path.name} row {number}"
        if not isinstance(row, dict) or (missing := sorted(wanted - row.keys())):
            lacks = f"lacks {', '.join(missing)}" if isinstance(row, dict) else "is no JSON object"
            raise DataError(f"evaluation.suites.{key}: row {number} of {path} {lacks}; name the right file.")
        yield place, row


def read_json(path: Path, *, key: str) -> Any:
    """The one JSON value of a file.

    Raises:
        DataError: the file is absent, damaged or not JSON.
    """
    try:
        return json.loads(_text(path, key))
    except ValueError as error:
        raise DataError(f"evaluation.suites.{key}: {path} is not JSON ({error}); fetch it again.") from error


def drawn(items: Sequence[T], most: int | None, seed: int) -> list[T]:
    """At most so many items, drawn without replacement, in their old order.

    Drawn rather than the first: publishers' files are sorted by template and category.
    """
    if most is None or len(items) <= most:
        return list(items)
    chosen = np.random.default_rng(seed).choice(len(items), most, replace=False)
    return [items[i] for i in sorted(chosen)]


def text_of(row: Mapping[str, Any], column: str, place: str, *, key: str) -> str:
    """A column that must hold some text.

    Raises:
        DataError: it holds something else.
    """
    value = row[column]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"evaluation.suites.{key}: {place} has no text in {column}; repair or drop the row.")
    return value


def _rows(path: Path, key: str) -> Iterator[Any]:
    name = path.name.lower().removesuffix(".gz")
    text = _text(path, key)
    if name.endswith((".csv", ".tsv")):
        yield from csv.DictReader(text.splitlines(), delimiter="\t" if name.endswith(".tsv") else ",")
        return
    if not name.endswith(".jsonl"):
        raise DataError(
            f"evaluation.suites.{key}: {path} ends neither in .jsonl, .csv nor .tsv (with or without .gz); "
            "rename or convert it."
        )
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
                raise DataError(
                    f"evaluation.suites.{key}: line {number} of {path} is not JSON ({error}); fetch it again."
                ) from error


def _text(path: Path, key: str) -> str:
    if problem := problem_with(path):
        raise DataError(f"evaluation.suites.{key}: {problem}; correct the path.")
    raw = gzip.decompress(path.read_bytes()) if path.name.lower().endswith(".gz") else path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"evaluation.suites.{key}: {path} is not UTF-8; convert it.") from error
