"""Views as CSV: for AutoTrain, which trains on columns of plain text, and for people with a spreadsheet."""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

from rlhf.errors import DataError
from rlhf.feedback.rows import Message

_SPEAKERS = {"user": "Human", "assistant": "Assistant", "system": "System", "context": "Context"}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_csv(view: Mapping[str, datasets.Dataset], path: Path, *, spreadsheet: bool = False) -> int:
    """Write the rows of all splits of a view, the split in a column of its own.

    Messages become text: a prompt of one user turn and a completion are their content, longer prompts are
    ``Human: …``/``Assistant: …`` transcripts. Demonstrations have a column ``text`` besides, with prompt and
    completion as one transcript, as AutoTrain's SFT takes it.

    Args:
        view: datasets by split, with the columns of a view.
        spreadsheet: begin with a byte order mark, without which Excel takes UTF-8 for something else, and put
            an apostrophe before text that a spreadsheet would run as a formula.

    Returns:
        Number of rows written.

    Raises:
        DataError: no split has rows, or the file cannot be written.
    """
    columns = list(dict.fromkeys(name for split in view.values() for name in split.column_names))
    with_text = "completion" in columns and "text" not in columns
    header = [*columns, *(["text"] if with_text else []), "split"]
    rows = 0
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        # One row, one record: a spreadsheet is told by quotes, not by line ends, where a text goes on.
        with partial.open("w", encoding="utf-8-sig" if spreadsheet else "utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(header)
            for split, dataset in view.items():
                for row in dataset:
                    cells = [_cell(row[column]) for column in columns]
                    if with_text:
                        cells.append(transcript([*row["prompt"], *row["completion"]]))
                    cells.append(split)
                    writer.writerow(_harmless(cells) if spreadsheet else cells)
                    rows += 1
        if not rows:
            raise DataError("The view has no rows; nothing was written.")
        partial.replace(path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written ({error.strerror or error}); name another file."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return rows


def transcript(messages: Sequence[Message]) -> str:
    """Chat messages as hh-rlhf writes them; ingest reads it back."""
    return "\n\n".join(
        f"{_SPEAKERS.get(message['role'], message['role'])}: {message['content']}" for message in messages
    )


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        alone = len(value) == 1 and value[0]["role"] in ("user", "assistant")
        return value[0]["content"] if alone else transcript(value)
    return value


def _harmless(cells: Iterable[Any]) -> list[Any]:
    # Feedback is written by strangers: https://owasp.org/www-community/attacks/CSV_Injection
    return [f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell for cell in cells]
