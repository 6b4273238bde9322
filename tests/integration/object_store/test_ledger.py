"""The feedback ledger on an object store: moto's S3 server, unmodified."""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from rlhf.errors import LedgerError
from rlhf.feedback.ledger import erasure, history
from rlhf.feedback.ledger.state import read_state
from tests.rlhf.feedback.ledger.conftest import Desk, judgement

pytestmark = pytest.mark.servers

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def desk(bucket: str, tmp_path: Path) -> Desk:
    desk = Desk(tmp_path)
    desk.url = f"s3://bucket/{tmp_path.name}"
    return desk


def objects(bucket: str, desk: Desk) -> dict[str, bytes]:
    """Everything that the ledger's folder holds, by key."""
    listed = httpx.get(bucket, params={"list-type": "2", "prefix": desk.url.rsplit("/", 1)[-1]})
    keys = [str(key.text) for key in ElementTree.fromstring(listed.text).iter() if key.tag.endswith("}Key")]
    return {key: httpx.get(f"{bucket}/{key}").content for key in keys}


def test_it_holds_what_the_sources_say_and_writes_only_what_changed(desk: Desk) -> None:
    desk.write([judgement("a"), judgement("b")])
    desk.ingest()
    assert not desk.ingest().changes[0].committed
    desk.write([judgement("a", 1), judgement("c")])
    result = desk.ingest()
    [change] = result.changes
    assert (change.new, change.edited, change.retracted) == (1, 1, 1)
    assert read_state(result.reference)["record_id"].to_pylist() == ["a", "c"]
    assert len(history.log(desk.url)) == 2


def test_two_processes_at_once_lose_and_double_nothing(desk: Desk) -> None:
    names = [f"source{n}" for n in range(3)]
    for name in names:
        desk.write([judgement(f"{name}-{n}") for n in range(50)], name)
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[4]);"
        "from tests.rlhf.feedback.ledger.conftest import Desk; desk = Desk(Path(sys.argv[1]));"
        "desk.url = sys.argv[2]; [desk.ingest(name) for name in sys.argv[3].split()]"
    )
    # In opposite orders, so that they meet at each source.
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(desk.folder), desk.url, " ".join(order), str(ROOT)]
        )
        for order in (names, names[::-1])
    ]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    table = DeltaTable(desk.url).to_pyarrow_dataset().to_table()
    assert sorted(table["ledger_seq"].to_pylist()) == list(range(1, 151))
    assert len(set(table["record_id"].to_pylist())) == 150


def test_erasing_leaves_no_object_with_the_record(desk: Desk, bucket: str) -> None:
    desk.write([judgement("a"), judgement("b")])
    desk.ingest()
    desk.write([judgement("a", 1), judgement("b")])
    desk.ingest()
    erasure.erase(desk.url, "record", "a", by="eve")
    held = objects(bucket, desk)
    rows = [
        row
        for key, content in held.items()
        if key.endswith(".parquet")
        for row in pq.ParquetFile(pa.BufferReader(content)).read().to_pylist()
    ]
    assert {row["record_id"] for row in rows} == {"b", None}
    assert b"question of a" not in b"".join(held.values())
    assert read_state(desk.ingest().reference)["record_id"].to_pylist() == ["b"]


def test_a_bucket_that_is_not_there_is_one_sentence(desk: Desk) -> None:
    desk.url = "s3://nowhere/ledger"
    desk.write([judgement("a")])
    with pytest.raises(LedgerError, match=r"No feedback ledger can be made at s3://nowhere/ledger"):
        desk.ingest()
