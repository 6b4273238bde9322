from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from rlhf.errors import LedgerError
from rlhf.feedback.ledger import erasure, history
from rlhf.feedback.ledger.files import files_of, write_files
from rlhf.feedback.ledger.state import read_state
from rlhf.feedback.ledger.table import LEDGER_SCHEMA, head_of, open_table
from tests.rlhf.feedback.ledger.conftest import Desk, judgement


@pytest.fixture
def filled(desk: Desk) -> Desk:
    desk.write(
        [
            judgement("o'neil-1", annotator="ada"),
            judgement("o'neil-1", annotator="ben"),
            judgement("b", annotator="ada"),
        ]
    )
    desk.ingest()
    return desk


def records(desk: Desk) -> list[tuple[str, str]]:
    rows = read_state(desk.ingest().reference).to_pylist()
    return [(row["record_id"], row["annotator"]) for row in rows]


def bytes_of(desk: Desk) -> bytes:
    """Everything that the ledger's folder holds, texts of Parquet files included."""
    files = [file for file in Path(desk.url).rglob("*") if file.is_file()]
    texts = [str(pq.ParquetFile(file).read().to_pylist()) for file in files if file.suffix == ".parquet"]
    return b"".join(file.read_bytes() for file in files) + "".join(texts).encode()


def test_a_forgotten_record_no_longer_counts_and_stays_out(filled: Desk) -> None:
    forgotten = erasure.forget(filled.url, "record", "o'neil-1", by="eve")
    assert forgotten.live == 2
    assert records(filled) == [("b", "ada")]
    filled.write([judgement("o'neil-1", 1, "ada"), judgement("b"), judgement("c")])
    assert filled.ingest().changes[0].kept_out == 1
    assert records(filled) == [("b", "ada"), ("c", "ada")]


def test_a_forgotten_annotator_stays_out_of_every_source(filled: Desk) -> None:
    erasure.forget(filled.url, "annotator", "ada", by="eve")
    filled.write([judgement("d", annotator="ada"), judgement("e", annotator="ben")], "others")
    assert filled.ingest("others").changes[0].live == 1
    assert records(filled) == [("o'neil-1", "ben")]


def test_earlier_states_keep_what_was_only_forgotten(filled: Desk) -> None:
    before = filled.ingest().reference
    erasure.forget(filled.url, "record", "b", by="eve")
    assert len(read_state(before)) == 3


def test_erasing_leaves_no_byte_of_the_record_but_that_it_was_erased(filled: Desk) -> None:
    before = filled.ingest().reference
    filled.write([judgement("o'neil-1", 1, "ada"), judgement("b")])
    filled.ingest()
    assert b"question of o'neil-1" in bytes_of(filled).replace(b'"', b"'")
    erasure.erase(filled.url, "record", "o'neil-1", by="eve")
    assert b"o'neil" not in bytes_of(filled)
    assert records(filled) == [("b", "ada")]
    [rule] = history.rules(filled.url)
    assert (rule.kind, rule.by, rule.erased) == ("record", "eve", True)
    with pytest.raises(LedgerError, match="were erased"):
        read_state(before)


def test_erasing_deletes_what_broken_off_ingests_left_and_no_file_of_one_at_work(filled: Desk) -> None:
    table = open_table(filled.url)
    [stored] = files_of(table)
    copies = {
        holding: write_files(table, [_rows_without(table, holding)])[0].path for holding in ("b", "o'neil-1")
    }
    whole = Path(filled.url) / stored.path
    cut = whole.with_name("cut.parquet")
    cut.write_bytes(whole.read_bytes()[:-9])
    unfinished = whole.with_name("killed.parquet#1")
    unfinished.write_bytes(whole.read_bytes())
    erasure.erase(filled.url, "record", "b", by="eve")
    assert b"question of b" not in bytes_of(filled)
    assert not cut.exists()
    assert not unfinished.exists()
    assert (Path(filled.url) / copies["b"]).exists()
    assert not (Path(filled.url) / copies["o'neil-1"]).exists()


def _rows_without(table: DeltaTable, record: str) -> pa.RecordBatch:
    """Rows of another ingest, whose transaction is still to come."""
    rows = table.to_pyarrow_dataset().to_table(filter=ds.field("record_id") != record)
    [batch] = rows.select(LEDGER_SCHEMA.names).cast(LEDGER_SCHEMA).combine_chunks().to_batches()
    return batch


def test_what_was_erased_can_still_be_traced(filled: Desk) -> None:
    key = filled.ingest().reference.source_keys[0]
    erasure.erase(filled.url, "record", "b", by="eve")
    assert history.lifetimes(filled.url, "record", "b") == [(key, 3, 4)]
    assert history.versions(filled.url, "record", "b") == []


def test_sequence_numbers_are_not_used_again_after_an_erasure(filled: Desk) -> None:
    erasure.erase(filled.url, "record", "b", by="eve")
    last = head_of(open_table(filled.url)).last_sequence
    filled.write([judgement("o'neil-1", 0, "ada"), judgement("o'neil-1", 0, "ben"), judgement("new")])
    filled.ingest()
    [version] = history.versions(filled.url, "record", "new")
    assert version.first == last + 1


def test_forgetting_twice_writes_once_and_erasing_completes_a_forgetting(filled: Desk) -> None:
    for _ in range(2):
        erasure.forget(filled.url, "record", "b", by="eve")
    assert [commit.action for commit in history.log(filled.url)].count("forget") == 1
    erasure.erase(filled.url, "record", "b", by="eve")
    assert b"question of b" not in bytes_of(filled)
    assert history.lifetimes(filled.url, "record", "b")


def test_an_erasure_that_broke_off_is_finished_by_the_next(
    filled: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object) -> None:
        raise OSError("disk")

    with monkeypatch.context() as broken:
        broken.setattr(erasure, "_delete", fails)
        with pytest.raises(OSError, match="disk"):
            erasure.erase(filled.url, "record", "b", by="eve")
    assert ("b", "ada") not in records(filled)
    erasure.erase(filled.url, "record", "b", by="eve")
    assert b"question of b" not in bytes_of(filled)


def test_what_never_was_in_the_ledger_cannot_be_forgotten(filled: Desk) -> None:
    version = DeltaTable(filled.url).version()
    with pytest.raises(LedgerError, match="never had the record 'nobody'"):
        erasure.forget(filled.url, "record", "nobody", by="eve")
    assert DeltaTable(filled.url).version() == version


def test_an_ingest_that_reads_while_somebody_is_forgotten_keeps_them_out(
    filled: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlhf.feedback.ledger import commit

    real = commit.append
    calls = []

    def late(*arguments: object) -> bool:
        calls.append(1)
        if len(calls) == 1:
            erasure.forget(filled.url, "annotator", "ada", by="eve")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(commit, "append", late)
    filled.write([judgement("x", annotator="ada"), judgement("y", annotator="ben")])
    assert records(filled) == [("y", "ben")]
