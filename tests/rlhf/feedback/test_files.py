import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhf.errors import DataError
from rlhf.feedback.files import INVALID_UTF8, NOT_AN_OBJECT, NOT_JSON, TOO_LONG, problem_with, read_file
from rlhf.feedback.records import Quarantined, Record


def read(path: Path, max_row_bytes: int = 1000) -> list[tuple[int, object]]:
    """Line and content of records, line and reason of refused ones."""
    return [
        (item.line, item.reason if isinstance(item, Quarantined) else item.values)
        for item in read_file(path, "s", max_row_bytes)
    ]


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_every_format_gives_the_same_records(tmp_path: Path, ending: str) -> None:
    rows = [{"prompt": "Grüße, Ada", "completion": 'say "hi"'}, {"prompt": "two\nlines", "completion": "b"}]
    parquet = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), parquet)
    csv_text = 'prompt,completion\r\n"Grüße, Ada","say ""hi"""\r\n"two\nlines",b\r\n'
    contents = {
        "jsonl": "\ufeff" + "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
        "json": json.dumps(rows, indent=2),
        "csv": csv_text,
        "parquet": parquet.getvalue().to_pybytes(),
    }
    for name, content in contents.items():
        data = content if isinstance(content, bytes) else content.encode()
        path = written(tmp_path / f"rows.{name}{ending}", data)
        assert problem_with(path) is None
        assert [item.values for item in read_file(path, "s", 1000) if isinstance(item, Record)] == rows, name


@pytest.mark.parametrize(
    "text",
    ['{"a": 1}\n{"a": 2}', '[{"a": 1}, {"a": 2}]', '{"data": [{"a": 1}, {"a": 2}]}', '{"a": 1} {"a": 2}'],
)
def test_json_may_be_a_list_a_wrapped_list_or_lines(tmp_path: Path, text: str) -> None:
    records = read(written(tmp_path / "x.json", text.encode()))
    assert [values for _, values in records] == [{"a": 1}, {"a": 2}]


def test_the_two_lists_of_samples_and_rewards_are_one_record_for_each_sample(tmp_path: Path) -> None:
    text = '{"samples": ["a", ["b", "c"]], "rewards": [1, 0.5]}'
    records = read(written(tmp_path / "x.json", text.encode()))
    assert [values for _, values in records] == [
        {"sample": "a", "reward": 1},
        {"sample": ["b", "c"], "reward": 0.5},
    ]
    with pytest.raises(DataError, match="1 samples but 2 rewards"):
        read(written(tmp_path / "y.json", b'{"samples": ["a"], "rewards": [1, 2]}'))


def test_bad_json_lines_are_refused_one_by_one_with_their_line(tmp_path: Path) -> None:
    lines = [
        b'{"a": "fine"}',
        b'{"a": "caf\xe9"}',
        b'{"a": ',
        b"",
        b"[1, 2]",
        b'{"a": NaN}',
        b'{"a": "' + b"x" * 5000 + b'"}',
        b"[" * 100_000,
        b'{"a": "last"}',
    ]
    assert read(written(tmp_path / "x.jsonl", b"\n".join(lines)), 200_000)[-2:] == [
        (8, NOT_JSON),
        (9, {"a": "last"}),
    ]
    assert read(written(tmp_path / "x.jsonl", b"\n".join(lines))) == [
        (1, {"a": "fine"}),
        (2, INVALID_UTF8),
        (3, NOT_JSON),
        (5, NOT_AN_OBJECT),
        (6, NOT_JSON),
        (7, TOO_LONG),
        (8, TOO_LONG),
        (9, {"a": "last"}),
    ]


def test_a_row_may_be_exactly_as_long_as_allowed(tmp_path: Path) -> None:
    line = b'{"a": "' + b"x" * 991 + b'"}'
    assert len(line) == 1000
    assert read(written(tmp_path / "x.jsonl", line + b"\r\n"))[0][1] != TOO_LONG
    assert read(written(tmp_path / "x.jsonl", line.replace(b"xx", b"xxx", 1))) == [(1, TOO_LONG)]


def test_a_json_list_refuses_bad_elements_and_keeps_the_rest(tmp_path: Path) -> None:
    content = b'[{"a": "ok"},\n 3,\n {"a": "caf\xe9"},\n {"a": "' + b"x" * 2000 + b'"},\n {"a": "end"}\n]'
    assert read(written(tmp_path / "x.json", content)) == [
        (1, {"a": "ok"}),
        (2, NOT_AN_OBJECT),
        (3, INVALID_UTF8),
        (4, TOO_LONG),
        (5, {"a": "end"}),
    ]


@pytest.mark.parametrize(
    "content", ['[{"a": 1}, {"a"', '[{"a": 1}', '[{"a": 1} {"a": 2}]', "hello", '{"a": 1']
)
def test_json_that_breaks_off_is_an_error_of_the_file(tmp_path: Path, content: str) -> None:
    with pytest.raises(DataError, match="'s'"):
        read(written(tmp_path / "x.json", content.encode()))


def test_bad_csv_rows_are_refused_one_by_one(tmp_path: Path) -> None:
    content = b'a,b\n1,2\n1,2,3\ncaf\xe9,x\n"q"r,2\n' + b"x" * 3000 + b",y\n3,\n"
    assert read(written(tmp_path / "x.csv", content)) == [
        (2, {"a": "1", "b": "2"}),
        (3, "row with more or fewer fields than the header"),
        (4, INVALID_UTF8),
        (5, "malformed CSV"),
        (6, TOO_LONG),
        (7, {"a": "3", "b": None}),
    ]


def test_a_csv_header_must_not_repeat_a_column(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="twice"):
        read(written(tmp_path / "x.csv", b"a,a\n1,2\n"))


def test_long_parquet_rows_are_refused(tmp_path: Path) -> None:
    pq.write_table(
        pa.Table.from_pylist([{"a": "ok"}, {"a": "x" * 5000}, {"a": "end"}]), tmp_path / "x.parquet"
    )
    assert read(tmp_path / "x.parquet") == [(1, {"a": "ok"}), (2, TOO_LONG), (3, {"a": "end"})]


def test_invalid_utf8_in_parquet_spoils_its_own_row_only(tmp_path: Path) -> None:
    raw = pa.array([b"ok", b"caf\xe9", b"end"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    pq.write_table(pa.table({"a": text}), tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet") == [(1, {"a": "ok"}), (2, INVALID_UTF8), (3, {"a": "end"})]


def test_plain_text_is_read_by_paragraph(tmp_path: Path) -> None:
    content = b"One\ntwo\n\n\n" + b"x" * 3000 + b"\n\ncaf\xe9\n\nLast"
    assert read(written(tmp_path / "x.txt", content)) == [
        (1, {"text": "One\ntwo\n"}),
        (5, TOO_LONG),
        (7, INVALID_UTF8),
        (9, {"text": "Last"}),
    ]


def test_a_truncated_gzip_is_an_error_that_says_how_far_it_got(tmp_path: Path) -> None:
    rows = "\n".join(json.dumps({"a": f"{n} {n * n}"}) for n in range(5000)).encode()
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(rows)[:-2000])
    assert problem_with(path) is None
    with pytest.raises(DataError, match=r"breaks off after line \d{3,}"):
        read(path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.jsonl", b"", "is empty"),
        ("empty.jsonl.gz", gzip.compress(b""), "is empty"),
        ("plain.jsonl.gz", b'{"a": 1}', "is not gzipped"),
        ("stub.jsonl.gz", gzip.compress(b'{"a": 1}')[:10], "breaks off"),
        ("not.parquet", b"PAR0 no", "is not a Parquet file"),
        ("folder.csv", None, "is not a file"),
        ("absent.csv", ..., "does not exist"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_read_is_known_before_reading(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    path = tmp_path / name
    if content is None:
        path.mkdir()
    elif content is not ...:
        path.write_bytes(content)
    assert said in (problem_with(path) or "")
