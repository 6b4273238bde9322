import csv
from pathlib import Path

import pytest
from datasets import Dataset

from rlhf.errors import DataError
from rlhf.feedback.csv_export import write_csv
from rlhf.feedback.transcripts import transcript_turns


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def reply(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


COMPARISONS = {
    "train": Dataset.from_list(
        [
            {
                "prompt": [user("Hi")],
                "chosen": [reply('a "quoted"\nline')],
                "rejected": [reply("=1+1")],
                "margin": 0.5,
            }
        ]
    ),
    "test": Dataset.from_list(
        [
            {
                "prompt": [user("Hi"), reply("Hello"), user("And?")],
                "chosen": [reply("ä")],
                "rejected": [reply("b")],
                "margin": 0.0,
            }
        ]
    ),
}


def read(path: Path, encoding: str = "utf-8") -> list[dict[str, str]]:
    with path.open(encoding=encoding, newline="") as stream:
        return list(csv.DictReader(stream))


def test_comparisons_have_the_columns_and_plain_texts_that_autotrain_takes(tmp_path: Path) -> None:
    assert write_csv(COMPARISONS, tmp_path / "x.csv") == 2
    first, second = read(tmp_path / "x.csv")
    assert first == {
        "prompt": "Hi",
        "chosen": 'a "quoted"\nline',
        "rejected": "=1+1",
        "margin": "0.5",
        "split": "train",
    }
    assert transcript_turns(second["prompt"]) == [user("Hi"), reply("Hello"), user("And?")]
    assert second["split"] == "test"


def test_demonstrations_have_a_text_column_besides(tmp_path: Path) -> None:
    write_csv(
        {"train": Dataset.from_list([{"prompt": [user("Hi")], "completion": [reply("Yo")]}])}, tmp_path / "x"
    )
    (row,) = read(tmp_path / "x")
    assert row["text"] == "Human: Hi\n\nAssistant: Yo"


def test_a_spreadsheet_gets_a_byte_order_mark_and_no_formulas(tmp_path: Path) -> None:
    write_csv(COMPARISONS, tmp_path / "x.csv", spreadsheet=True)
    assert (tmp_path / "x.csv").read_bytes().startswith(b"\xef\xbb\xbf")
    first, second = read(tmp_path / "x.csv", "utf-8-sig")
    assert (first["rejected"], first["margin"], second["chosen"]) == ("'=1+1", "0.5", "ä")


def test_nothing_is_left_behind_when_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("earlier")
    with pytest.raises(DataError, match="has no rows"):
        write_csv({"train": Dataset.from_dict({"text": []})}, tmp_path / "x.csv")
    with pytest.raises(DataError, match="cannot be written"):
        write_csv(COMPARISONS, tmp_path / "absent" / "x.csv")
    assert [file.name for file in tmp_path.iterdir()] == ["x.csv"]
    assert (tmp_path / "x.csv").read_text() == "earlier"
