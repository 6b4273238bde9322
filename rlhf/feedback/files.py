"""Local files as streams of records: JSON Lines, JSON, CSV, Parquet and plain text, each also gzipped. Knows
bytes and lines; what the columns mean is the layouts' business."""

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from rlhf.errors import DataError
from rlhf.feedback.records import Quarantined, Record, excerpt_of
from rlhf.feedback.settings import file_format

INVALID_UTF8 = "invalid UTF-8"
NOT_JSON = "not JSON"
NOT_AN_OBJECT = "JSON, but not an object"
TOO_LONG = "longer than max_row_bytes"

_SKIP_BYTES = 1 << 16
_PARQUET_BATCH = 1024
_LIST_KEYS = ("data", "rows", "examples")

Reading = Iterator[Record | Quarantined]


def problem_with(path: Path) -> str | None:
    """Why a file cannot be read, as a clause for an error message, or None. Looks at its beginning only."""
    if not path.exists():
        return f"{path} does not exist"
    if not path.is_file():
        return f"{path} is not a file"
    try:
        with _open(path) as stream:
            if not stream.read(1):
                return f"{path} is empty"
            if file_format(path) == "parquet" and not _is_gzipped(path):
                pq.ParquetFile(path).close()
    except gzip.BadGzipFile:
        return f"{path} ends in .gz but is not gzipped"
    except (EOFError, zlib.error):
        return f"{path} is damaged: its gzip stream breaks off"
    except pa.ArrowException as error:
        return f"{path} is not a Parquet file ({first_line(error)})"
    except OSError as error:
        return f"{path} cannot be read ({error.strerror or error})"
    return None


def read_file(path: Path, source: str, max_row_bytes: int) -> Reading:
    """Records of a file in order; lines that are none are yielded as quarantined.

    Raises:
        DataError: the file is damaged as a whole: a broken gzip stream, JSON that ends early, no header.
    """
    reader = _READERS[cast(str, file_format(path))]
    line = 0
    try:
        with _open(path) as stream:
            for item in reader(stream, source, max_row_bytes):
                line = item.line
                yield item
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path} is damaged: its gzip stream breaks off after line {line}; fetch or write the file again."
        ) from error
    except pa.ArrowException as error:
        raise DataError(
            f"{path} is damaged after row {line} ({first_line(error)}); write the file again."
        ) from error


def first_line(error: Exception) -> str:
    """The first line of another library's message, for use inside one of ours."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _is_gzipped(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb") if _is_gzipped(path) else path.open("rb"))


def _lines(stream: BinaryIO, max_bytes: int) -> Iterator[tuple[int, bytes, bool]]:
    """Numbered lines with their ends and whether they are complete: of a line over ``max_bytes`` only the
    beginning is ever held."""
    number = 0
    while line := stream.readline(max_bytes + 2):
        number += 1
        complete = len(line.rstrip(b"\r\n")) <= max_bytes
        if not complete:
            rest = line
            while rest and not rest.endswith(b"\n"):
                rest = stream.readline(_SKIP_BYTES)
        yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, complete


def _parsed(text: str) -> Any:
    """JSON without the NaN and Infinity that Python's reader lets through."""
    return json.loads(text, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _read_jsonl(stream: BinaryIO, source: str, max_row_bytes: int) -> Reading:
    for number, raw, complete in _lines(stream, max_row_bytes):
        if not complete:
            yield Quarantined(source, number, TOO_LONG, excerpt_of(raw[:1000].decode("utf-8", "replace")))
        elif raw.strip():
            yield _json_record(source, number, raw)


def _json_record(source: str, number: int, raw: bytes) -> Record | Quarantined:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return Quarantined(source, number, INVALID_UTF8, excerpt_of(raw[:1000].decode("utf-8", "replace")))
    try:
        value = _parsed(text)
    except (ValueError, RecursionError):
        return Quarantined(source, number, NOT_JSON, excerpt_of(text))
    if not isinstance(value, dict):
        return Quarantined(source, number, NOT_AN_OBJECT, excerpt_of(text))
    return Record(number, value)


def _read_json(stream: BinaryIO, source: str, max_row_bytes: int) -> Reading:
    """A list of objects; or an object whose ``data``, ``rows`` or ``examples`` is one, or that has the two
    lists ``samples`` and ``rewards`` (trlX); or JSON Lines under another name. The text is held, the objects
    are made one by one."""
    # Bytes that are no UTF-8 survive as surrogates, so that they spoil their own record only.
    text = stream.read().removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    start = _after_space(text, 0)
    if text[start : start + 1] == "{":
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"Source '{source}' is not valid JSON ({error}); write the file again."
            ) from error
        if _after_space(text, end) < len(text):
            yield from _json_sequence(text, start, decoder, source, max_row_bytes, separator="", close="")
            return
        rows = _rewarded_samples(value, source) or next(
            (value[key] for key in _LIST_KEYS if isinstance(value.get(key), list)), [value]
        )
        for number, row in enumerate(rows, 1):
            yield (
                Record(number, row)
                if isinstance(row, dict)
                else Quarantined(source, number, NOT_AN_OBJECT, excerpt_of(row))
            )
    elif text[start : start + 1] == "[":
        yield from _json_sequence(text, start + 1, decoder, source, max_row_bytes, separator=",", close="]")
    else:
        raise DataError(f"Source '{source}' holds neither a JSON list nor JSON objects; name the right file.")


def _rewarded_samples(value: Mapping[str, Any], source: str) -> list[dict[str, Any]] | None:
    """One object for each sample with its reward, if that is what the lists of an object are."""
    samples, rewards = value.get("samples"), value.get("rewards")
    if not isinstance(samples, list) or not isinstance(rewards, list):
        return None
    if len(samples) != len(rewards):
        raise DataError(
            f"Source '{source}' has {len(samples)} samples but {len(rewards)} rewards; write one reward for "
            "each sample."
        )
    return [{"sample": sample, "reward": reward} for sample, reward in zip(samples, rewards, strict=True)]


def _json_sequence(
    text: str,
    at: int,
    decoder: json.JSONDecoder,
    source: str,
    max_row_bytes: int,
    *,
    separator: str,
    close: str,
) -> Reading:
    line = 1 + text.count("\n", 0, at)
    while (begin := _after_space(text, at)) < len(text) and (not close or text[begin] != close):
        line += text.count("\n", at, begin)
        try:
            value, end = decoder.raw_decode(text, begin)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"Source '{source}' stops being JSON in the object that begins on line {line} ({error}); "
                "write the file again."
            ) from error
        content = text[begin:end]
        if len(content) > max_row_bytes:
            yield Quarantined(source, line, TOO_LONG, excerpt_of(content))
        elif not content.isascii() and any("\udc80" <= char <= "\udcff" for char in content):
            yield Quarantined(source, line, INVALID_UTF8, excerpt_of(content))
        elif not isinstance(value, dict):
            yield Quarantined(source, line, NOT_AN_OBJECT, excerpt_of(content))
        else:
            yield Record(line, value)
        line += content.count("\n")
        at = _after_space(text, end)
        line += text.count("\n", end, at)
        if separator and text[at : at + 1] == separator:
            at += 1
        elif separator and text[at : at + 1] != close:
            raise DataError(
                f"Source '{source}' lacks a '{separator}' or '{close}' on line {line}; write the file again."
            )
    if close and text[begin : begin + 1] != close:
        raise DataError(f"Source '{source}' breaks off: its list is never closed; write the file again.")


def _after_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _read_csv(stream: BinaryIO, source: str, max_row_bytes: int) -> Reading:
    # The module's limit is one for the process and below ours by default; raising it harms nobody.
    csv.field_size_limit(max(csv.field_size_limit(), max_row_bytes))

    def decoded() -> Iterator[str]:
        for _, raw, complete in _lines(stream, max_row_bytes):
            # A cut line keeps more than max_row_bytes, so that its row is refused below.
            yield raw.decode("utf-8", "surrogateescape") + ("" if complete else "\n")

    rows = csv.reader(decoded(), strict=True)
    header: list[str] | None = None
    while True:
        try:
            row = next(rows)
        except StopIteration:
            break
        except csv.Error as error:
            reason = TOO_LONG if "field limit" in str(error) else "malformed CSV"
            yield Quarantined(source, rows.line_num, reason, excerpt_of(str(error)))
            continue
        if header is None:
            header = [column.strip() for column in row]
            if len(set(header)) < len(header):
                raise DataError(f"Source '{source}' names a column twice in its header; rename one of them.")
        elif not row:
            continue
        elif sum(map(len, row)) > max_row_bytes:
            yield Quarantined(source, rows.line_num, TOO_LONG, excerpt_of(row[0]))
        elif any("\udc80" <= char <= "\udcff" for cell in row if not cell.isascii() for char in cell):
            yield Quarantined(source, rows.line_num, INVALID_UTF8, excerpt_of(", ".join(row)))
        elif len(row) != len(header):
            reason = "row with more or fewer fields than the header"
            yield Quarantined(source, rows.line_num, reason, excerpt_of(", ".join(row)))
        else:
            yield Record(
                rows.line_num, {column: cell or None for column, cell in zip(header, row, strict=True)}
            )


def _read_parquet(stream: BinaryIO, source: str, max_row_bytes: int) -> Reading:
    number = 0
    for batch in pq.ParquetFile(stream).iter_batches(batch_size=_PARQUET_BATCH):
        # Sizes are taken from Arrow's buffers: a row that is too long never becomes Python objects.
        if batch.nbytes <= max_row_bytes:
            try:
                rows = batch.to_pylist()
            except UnicodeDecodeError:
                pass  # one by one, to find the row
            else:
                yield from (Record(number + at, values) for at, values in enumerate(rows, 1))
                number += batch.num_rows
                continue
        for at in range(batch.num_rows):
            number += 1
            row = batch.slice(at, 1)
            if row.nbytes > max_row_bytes:
                yield Quarantined(source, number, TOO_LONG, "")
                continue
            try:
                yield Record(number, row.to_pylist()[0])
            except UnicodeDecodeError:
                yield Quarantined(source, number, INVALID_UTF8, "")


def _read_text(stream: BinaryIO, source: str, max_row_bytes: int) -> Reading:
    """Paragraphs, parted by blank lines."""
    paragraph: list[bytes] = []
    begin, size = 1, 0

    def finished() -> Reading:
        raw = b"".join(paragraph)
        if size > max_row_bytes:
            yield Quarantined(source, begin, TOO_LONG, excerpt_of(raw[:1000].decode("utf-8", "replace")))
        elif raw.strip():
            try:
                yield Record(begin, {"text": raw.decode()})
            except UnicodeDecodeError:
                excerpt = excerpt_of(raw[:1000].decode("utf-8", "replace"))
                yield Quarantined(source, begin, INVALID_UTF8, excerpt)

    for number, raw, _ in _lines(stream, max_row_bytes):
        if raw.strip():
            if not paragraph:
                begin, size = number, 0
            size += len(raw)
            if size <= max_row_bytes or not paragraph:
                paragraph.append(raw)
        else:
            yield from finished()
            paragraph.clear()
    yield from finished()


_READERS: Mapping[str, Callable[[BinaryIO, str, int], Reading]] = {
    "jsonl": _read_jsonl,
    "json": _read_json,
    "csv": _read_csv,
    "parquet": _read_parquet,
    "txt": _read_text,
}
