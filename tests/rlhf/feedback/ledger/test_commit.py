import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from rlhf.errors import ConfigError, DataError, LedgerError
from rlhf.feedback.ingest import ingest
from rlhf.feedback.ledger import commit, erasure
from rlhf.feedback.ledger.ingest import ingest_into_ledger
from rlhf.feedback.ledger.maintenance import compact
from rlhf.feedback.ledger.state import read_state
from rlhf.feedback.ledger.table import LEDGER_SCHEMA
from rlhf.feedback.settings import FeedbackSettings
from tests.rlhf.feedback.ledger.conftest import Desk, judgement

ROOT = Path(__file__).resolve().parents[4]


def values(desk: Desk, *names: str) -> list[tuple[str, str, Any]]:
    table = read_state(commit.reference(desk.url, desk.ingest(*names).reference.source_keys))
    return [(r["record_id"], r["annotator"], json.loads(r["value"])) for r in table.to_pylist()]


def test_the_ledger_holds_what_the_sources_say_and_nothing_else(desk: Desk) -> None:
    desk.write([judgement("a"), judgement("b", 1), judgement("b", 1), {"record_id": "c"}])
    settings = desk.settings().model_copy(update={"max_quarantined_share": 0.5})
    result = ingest_into_ledger(settings)
    plain = ingest(settings)
    assert sorted(read_state(result.reference)["row_hash"].to_pylist()) == sorted(
        plain.table["row_hash"].to_pylist()
    )
    for figure in ("rows", "repeated", "quarantined", "sources"):
        assert result.report.data[figure] == plain.report.data[figure]


def test_an_unchanged_source_is_not_read_again_and_writes_nothing(desk: Desk) -> None:
    desk.write([judgement("a"), judgement("b")])
    first = desk.ingest()
    version = DeltaTable(desk.url).version()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commit, "_read", None)
        again = desk.ingest()
        os.utime(desk.folder / "votes.jsonl", (1, 1))  # another time, the same bytes
        assert desk.ingest().reference == again.reference
    assert DeltaTable(desk.url).version() == version
    assert again.reference == first.reference
    assert again.report.data["sources"] == first.report.data["sources"]
    assert "Nothing changed" in again.report.data["summary"]


def test_only_rows_that_changed_are_appended(desk: Desk) -> None:
    desk.write([judgement("a"), judgement("b"), judgement("c")])
    desk.ingest()
    desk.write([judgement("a"), judgement("b", 1), judgement("d")])
    result = desk.ingest()
    assert result.report.data["changes"]["votes"] == {
        "new": 1,
        "edited": 1,
        "retracted": 1,
        "unchanged": 1,
        "kept_out": 0,
        "live": 3,
    }
    assert result.reference.sequence == 6
    assert [row[0] for row in values(desk)] == ["a", "b", "d"]


def test_the_report_says_which_share_is_new(desk: Desk) -> None:
    rows = [judgement(f"{n:03d}") for n in range(100)]
    desk.write(rows[:97])
    desk.ingest()
    desk.write(rows)
    result = desk.ingest()
    assert "100 annotations, of which 3 (3.0%) are new" in result.report.html
    assert len(read_state(result.reference)) == 100


def test_earlier_states_are_rebuilt_whatever_came_later(desk: Desk) -> None:
    states = []
    for rows in (
        [judgement("a"), judgement("b")],
        [judgement("a", 1), judgement("c")],
        [judgement("b", None)],
    ):
        desk.write(rows)
        reference = desk.ingest().reference
        states.append((reference, read_state(reference)))
    DeltaTable(desk.url).optimize.compact()
    DeltaTable(desk.url).vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    for reference, table in states:
        assert read_state(reference).equals(table)


def test_rows_do_not_show_the_order_in_which_they_came(tmp_path: Path) -> None:
    rows = [judgement(f"{n}") for n in range(9)]
    tables, digests = [], []
    for position, order in enumerate((rows, rows[::-1])):
        folder = tmp_path / str(position)
        folder.mkdir()
        desk = Desk(folder)
        desk.write(order[:4])
        desk.ingest()
        desk.write(order)
        reference = desk.ingest().reference
        tables.append(read_state(reference))
        digests.append(reference.state_digest)
    assert tables[0].equals(tables[1])
    assert digests[0] == digests[1]


def test_sources_stand_in_the_configs_order_and_share_no_rows(desk: Desk) -> None:
    desk.write([judgement("z")], "first")
    desk.write([judgement("a")], "second")
    both = desk.ingest("first", "second").reference
    assert [row["record_id"] for row in read_state(both).to_pylist()] == ["z", "a"]
    assert [row["record_id"] for row in read_state(desk.ingest("second").reference).to_pylist()] == ["a"]
    assert desk.ingest("second", "first").reference.state_digest == both.state_digest


def test_two_sources_of_one_name_do_not_retract_each_others_rows(desk: Desk, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    namesake = Desk(other)
    namesake.url = desk.url
    desk.write([judgement("a")])
    namesake.write([judgement("b")])
    desk.ingest()
    assert namesake.ingest().changes[0].retracted == 0
    assert desk.ingest().changes[0].committed is False


def test_two_processes_at_once_lose_and_double_nothing(desk: Desk) -> None:
    names = [f"source{n}" for n in range(2)]
    for name in names:
        desk.write([judgement(f"{name}-{n}") for n in range(50)], name)
    program = (
        "import sys, json; from pathlib import Path; sys.path.insert(0, sys.argv[3]);"
        "from tests.rlhf.feedback.ledger.conftest import Desk; desk = Desk(Path(sys.argv[1]));"
        "[desk.ingest(name) for name in sys.argv[2].split()]"
    )
    # In opposite orders, so that they meet at both sources.
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(desk.folder), " ".join(order), str(ROOT)])
        for order in (names, names[::-1])
    ]
    assert [process.wait(timeout=60) for process in running] == [0, 0]
    table = DeltaTable(desk.url).to_pyarrow_table()
    assert sorted(table["ledger_seq"].to_pylist()) == list(range(1, 101))
    assert len(set(table["record_id"].to_pylist())) == 100


@pytest.mark.parametrize("meanwhile", ["votes", "others"])
def test_who_comes_second_looks_again(desk: Desk, meanwhile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.write([judgement("a")])
    desk.write([judgement("b")], "others")
    real = commit.append
    calls: list[str] = []

    def late(*arguments: Any) -> bool:
        calls.append("append")
        if len(calls) == 1:
            desk.ingest(meanwhile)
        return real(*arguments)

    monkeypatch.setattr(commit, "append", late)
    desk.ingest()
    assert len(list(Path(desk.url).rglob("*.parquet"))) == len(DeltaTable(desk.url).file_uris())
    table = DeltaTable(desk.url).to_pyarrow_table()
    assert sorted(table["ledger_seq"].to_pylist()) == list(range(1, len(table) + 1))
    assert sorted(table["record_id"].to_pylist()) == (["a"] if meanwhile == "votes" else ["a", "b"])


def test_a_commit_whose_answer_got_lost_counts_and_keeps_its_files(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.write([judgement("a"), judgement("b")])
    real = DeltaTable.create_write_transaction

    def unheard(*arguments: Any, **more: Any) -> None:
        real(*arguments, **more)
        raise CommitFailedError("a version file already exists")

    with monkeypatch.context() as lossy:
        lossy.setattr(DeltaTable, "create_write_transaction", unheard)
        assert desk.ingest().changes[0].new == 2
    assert [row[0] for row in values(desk)] == ["a", "b"]


def test_a_place_without_room_is_one_sentence_and_the_ledger_stays_as_it_was(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.write([judgement("a")])
    reference = desk.ingest().reference
    desk.write([judgement("a"), judgement("b")])

    def full(*arguments: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as small:
        small.setattr("rlhf.feedback.ledger.table.write_files", full)
        with pytest.raises(LedgerError, match=r"cannot be written \(No space left on device"):
            desk.ingest()
    assert DeltaTable(desk.url).version() == 1
    assert len(read_state(reference)) == 1


def test_what_is_refused_is_not_quoted_once_somebody_was_forgotten(desk: Desk) -> None:
    desk.write([judgement("a"), judgement("b"), judgement("broken", 7)])
    lenient = desk.settings().model_copy(update={"max_quarantined_share": 0.5})
    assert "question of broken" in ingest_into_ledger(lenient).report.html
    erasure.forget(desk.url, "record", "a", by="eve")
    desk.write([judgement("b"), judgement("broken", 8)])
    [change] = (again := ingest_into_ledger(lenient)).changes
    assert [entry.reason for entry in change.quarantined] == ["a comparison's value is not 0, 1 or null"]
    assert "question of broken" not in again.report.html


def test_a_source_that_is_mostly_bad_leaves_the_ledger_as_it_was(desk: Desk) -> None:
    desk.write([judgement("a")])
    reference = desk.ingest().reference
    desk.write([judgement("a", 7), judgement("b", 8), judgement("c")])
    with pytest.raises(DataError, match="2 of 3 entries are unusable"):
        desk.ingest()
    assert len(read_state(reference)) == 1
    assert DeltaTable(desk.url).version() == 1


def test_many_small_commits_are_put_together(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf.feedback.ledger.maintenance._MOST_SMALL_FILES", 3)
    for n in range(6):
        desk.write([judgement(f"{m}") for m in range(n + 1)])
        reference = desk.ingest().reference
    assert len(DeltaTable(desk.url).file_uris()) <= 3
    assert len(read_state(reference)) == 6
    compact(desk.url, reference.source_keys[0])


def test_statistics_in_the_log_hold_no_text_of_a_row(desk: Desk) -> None:
    desk.write([judgement("secret-record", annotator="secret-annotator")])
    desk.ingest()
    said = "".join(file.read_text() for file in (Path(desk.url) / "_delta_log").glob("*.json"))
    assert "secret" not in said


def test_other_programs_read_the_table_by_its_schema(desk: Desk) -> None:
    desk.write([judgement("a")])
    desk.ingest()
    table = DeltaTable(desk.url).to_pyarrow_table()
    assert set(table.schema.names) == set(LEDGER_SCHEMA.names)


def test_settings_without_a_ledger_are_refused(desk: Desk) -> None:
    desk.write([judgement("a")])
    with pytest.raises(ConfigError, match=r"feedback\.ledger\.url"):
        ingest_into_ledger(
            FeedbackSettings.model_validate(
                {"sources": [{"type": "file", "path": desk.folder / "votes.jsonl"}]}
            )
        )
