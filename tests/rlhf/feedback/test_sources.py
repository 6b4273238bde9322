import json
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from rlhf.errors import ConfigError, DataError
from rlhf.feedback.records import Quarantined
from rlhf.feedback.rows import AnnotationRow, Message
from rlhf.feedback.settings import FeedbackSettings
from rlhf.feedback.sources import open_sources


class Diary:
    """A source as a user would write one."""

    def __init__(self, entries: int) -> None:
        self.entries = entries

    def read(self) -> Iterator[AnnotationRow]:
        for n in range(self.entries):
            prompt = (Message(role="user", content=f"Day {n}"),)
            yield AnnotationRow(str(n), "diary", prompt, (), "demonstration", "text" if n else " ")


class Wrong:
    def read(self) -> Iterator[str]:
        yield "text"


class Guarded:
    """A source that needs a key."""

    keys: ClassVar[list[str]] = []

    def __init__(self, key: str) -> None:
        self.keys.append(key)

    def read(self) -> Iterator[AnnotationRow]:
        yield from ()


class NoSource:
    pass


def settings(*sources: dict, **more: object) -> FeedbackSettings:
    return FeedbackSettings.model_validate({"sources": sources, **more})


def folder(tmp_path: Path) -> Path:
    """A dataset folder as the hub has it."""
    (tmp_path / "data").mkdir()
    for split, n in (("train", 3), ("test", 2)):
        lines = (json.dumps({"prompt": f"{split} {i}", "completion": f"answer {i}"}) for i in range(n))
        (tmp_path / "data" / f"{split}.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_a_hub_dataset_is_read_split_by_split(tmp_path: Path) -> None:
    dataset = str(folder(tmp_path))
    for split, texts in (("test", ["test 0", "test 1"]), ("train[:1]", ["train 0"])):
        (source,) = open_sources(settings({"type": "hub", "dataset": dataset, "split": split, "name": "d"}))
        rows = [row for row in source.read() if isinstance(row, AnnotationRow)]
        assert [row.prompt[0]["content"] for row in rows] == texts
        assert (rows[0].source, source.layout) == ("d", "prompt-completion")


def test_a_wrong_split_is_an_error_that_lists_the_right_ones(tmp_path: Path) -> None:
    hub = {"type": "hub", "dataset": str(folder(tmp_path)), "split": "validation"}
    with pytest.raises(DataError, match="no split 'validation' but train, test"):
        open_sources(settings(hub))


def test_all_unreadable_sources_are_named_in_one_error_before_any_is_read(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(DataError) as raised:
        open_sources(
            settings(
                {"type": "file", "path": tmp_path / "absent.jsonl"},
                {"type": "file", "path": tmp_path / "empty.jsonl"},
                {"type": "hub", "dataset": str(tmp_path / "nowhere")},
                {"type": "sample"},
            )
        )
    message = str(raised.value)
    assert all(part in message for part in ("absent.jsonl does not exist", "empty.jsonl is empty", "nowhere"))


def test_a_limit_counts_readable_records(tmp_path: Path) -> None:
    lines = ['{"text": "a"}', "no json", '{"text": "b"}', '{"text": "c"}']
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    (source,) = open_sources(settings({"type": "file", "path": tmp_path / "x.jsonl", "limit": 2}))
    found = list(source.read())
    assert [row.value for row in found if isinstance(row, AnnotationRow)] == ["a", "b"]
    assert [q.line for q in found if isinstance(q, Quarantined)] == [2]


def test_a_layout_named_by_the_config_wins_over_the_recognised_one(tmp_path: Path) -> None:
    record = {"prompt": "Hi", "completion": "a", "question": "Hm", "answer": "b"}
    (tmp_path / "x.jsonl").write_text(json.dumps(record))
    values = {}
    for layout in ("question-answer", "prompt-completion"):
        (source,) = open_sources(settings({"type": "file", "path": tmp_path / "x.jsonl", "layout": layout}))
        (row,) = source.read()
        assert isinstance(row, AnnotationRow)
        values[source.layout] = row.value
    assert values == {"question-answer": "b", "prompt-completion": "a"}


def test_a_custom_class_is_a_source_and_its_rows_are_checked() -> None:
    (source,) = open_sources(
        settings({"type": "custom", "cls": f"{__name__}:Diary", "options": {"entries": 3}})
    )
    refused, *rows = source.read()
    assert isinstance(refused, Quarantined)
    assert (refused.line, refused.reason) == (1, "empty text")
    assert [row.record_id for row in rows if isinstance(row, AnnotationRow)] == ["1", "2"]


def test_a_secret_is_taken_from_the_environment_and_only_its_name_is_in_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = settings({"type": "custom", "cls": f"{__name__}:Guarded", "secrets": {"key": "DIARY_KEY"}})
    with pytest.raises(ConfigError, match="needs DIARY_KEY in the environment"):
        open_sources(found)
    monkeypatch.setenv("DIARY_KEY", "s3cr3t")
    (source,) = open_sources(found)
    assert list(source.read()) == []
    assert Guarded.keys == ["s3cr3t"]
    assert "s3cr3t" not in found.model_dump_json()


def test_a_custom_class_that_yields_something_else_is_an_error() -> None:
    (source,) = open_sources(settings({"type": "custom", "cls": f"{__name__}:Wrong"}))
    with pytest.raises(DataError, match="gave str at position 1"):
        list(source.read())


@pytest.mark.parametrize(
    ("cls", "options", "said"),
    [
        ("no_such_module:X", {}, "cannot be imported"),
        (f"{__name__}:Absent", {}, "cannot be imported"),
        (f"{__name__}:NoSource", {}, "has no read"),
        (f"{__name__}:Diary", {"pages": 1}, "refuses its `options`"),
    ],
)
def test_a_custom_class_that_cannot_be_made_is_an_error_of_the_config(
    cls: str, options: dict, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        open_sources(settings({"type": "custom", "cls": cls, "options": options}))
