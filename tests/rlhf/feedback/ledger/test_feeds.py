"""An annotation server as a source of the ledger: what changed is read, and everything now and then."""

import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf.errors import DataError
from rlhf.feedback.ledger import commit, feeds
from rlhf.feedback.ledger.feeds import Watermark
from rlhf.feedback.ledger.ingest import ingest_into_ledger
from rlhf.feedback.ledger.state import read_state
from rlhf.feedback.records import Outcome
from rlhf.feedback.rows import AnnotationRow, Message
from rlhf.feedback.settings import FeedbackSettings
from tests.rlhf.feedback.ledger.conftest import Desk


class Server:
    """An annotation server with a clock; ``read_since`` gives what changed after the watermark's time."""

    rows: ClassVar[dict[str, tuple[int | None, int]]] = {}
    """Value and time of change by record; one without a value was discarded."""
    reads: ClassVar[list[Watermark | None]] = []
    """Where each reading began."""
    watermark: Watermark | None = None
    complete = False
    whole_records: Collection[str] = ()
    dies_after: ClassVar[int | None] = None

    def read(self) -> Iterator[Outcome]:
        raise AssertionError("the ledger reads what changed")

    def read_since(self, watermark: Watermark | None) -> Iterator[Outcome]:
        self.reads.append(watermark)
        since = watermark["time"] if watermark else 0
        self.whole_records = [record for record, (_, time) in self.rows.items() if time > since]
        for number, (record, (value, time)) in enumerate(self.rows.items()):
            if self.dies_after == number:
                raise DataError("the server died")
            if time > since:
                own = (Message(role="user", content=record),)
                if value is None:
                    yield AnnotationRow(record, "server", own, (), "demonstration", "", status="discarded")
                else:
                    yield AnnotationRow(record, "server", own, ("x", "y"), "comparison", value)
        self.watermark = {"time": max((time for _, time in self.rows.values()), default=0)}
        self.complete = watermark is None


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> type[Server]:
    monkeypatch.setattr(Server, "rows", {"a": (0, 1), "b": (0, 2)})
    monkeypatch.setattr(Server, "reads", [])
    monkeypatch.setattr(Server, "dies_after", None)
    return Server


@pytest.fixture
def poll(server: type[Server], desk: Desk) -> Callable[[], commit.SourceChange]:
    settings = FeedbackSettings.model_validate(
        {
            "sources": [{"type": "custom", "cls": f"{__name__}:Server"}],
            "ledger": {"url": desk.url, "full_scan_every": 3},
        }
    )
    return lambda: ingest_into_ledger(settings).changes[0]


def test_a_server_is_read_from_where_the_last_ingest_stopped(
    server: type[Server], poll: Callable[[], commit.SourceChange]
) -> None:
    assert poll().new == 2
    server.rows = {"a": (1, 3), "b": (0, 2), "c": (0, 4)}
    change = poll()
    assert (change.new, change.edited, change.unchanged, change.tally["rows"]) == (1, 1, 1, 2)


def test_an_unchanged_server_writes_nothing_and_is_still_read_in_full_now_and_then(
    server: type[Server], poll: Callable[[], commit.SourceChange], desk: Desk
) -> None:
    first = poll()
    version = DeltaTable(desk.url).version()
    later = [poll() for _ in range(6)]
    assert DeltaTable(desk.url).version() == version
    assert [since is None for since in server.reads] == [True, False, False, True, False, False, True]
    assert {(change.committed, change.live, change.tally["rows"]) for change in later} == {(False, 2, 2)}
    assert later[0].tally == first.tally


def test_a_judgement_that_was_discarded_ends_though_only_changes_are_read(
    server: type[Server], poll: Callable[[], commit.SourceChange]
) -> None:
    poll()
    server.rows = {"a": (None, 3), "b": (0, 2)}
    change = poll()
    assert (change.new, change.retracted, change.live) == (1, 1, 2)


CHANGING = st.lists(st.dictionaries(st.sampled_from("abcd"), st.sampled_from([0, 1, None]), min_size=1))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(CHANGING, st.lists(st.booleans(), min_size=8, max_size=8))
def test_whatever_a_server_goes_through_its_rows_are_right_and_a_full_scan_leaves_nothing_else(
    truths: list[dict[str, int | None]], deaths: list[bool]
) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Server, "reads", [])

        def polled(full_scan_every: int) -> dict[str, tuple[str, Any]]:
            settings = FeedbackSettings.model_validate(
                {
                    "sources": [{"type": "custom", "cls": f"{__name__}:Server"}],
                    "ledger": {"url": str(Path(folder) / "ledger"), "full_scan_every": full_scan_every},
                }
            )
            rows = read_state(ingest_into_ledger(settings).reference).to_pylist()
            assert len(rows) == len({row["record_id"] for row in rows})
            return {row["record_id"]: (row["kind"], json.loads(row["value"])) for row in rows}

        def said(truth: dict[str, int | None]) -> dict[str, tuple[str, Any]]:
            return {
                record: ("demonstration", "") if value is None else ("comparison", value)
                for record, value in truth.items()
            }

        server: dict[str, tuple[int | None, int]] = {}
        for time, truth in enumerate([*truths, {"a": 0}], 1):
            server = {
                record: server[record] if server.get(record, (2, 0))[0] == value else (value, time)
                for record, value in truth.items()
            }
            patch.setattr(Server, "rows", server)
            if deaths[time % 8]:
                patch.setattr(Server, "dies_after", 0)
                with pytest.raises(DataError, match="died"):
                    polled(1000)
                patch.setattr(Server, "dies_after", None)
            assert said(truth).items() <= polled(1000).items()
        assert polled(1) == said({"a": 0})


def test_one_bad_record_among_the_few_that_changed_does_not_stop_an_ingest(
    server: type[Server], poll: Callable[[], commit.SourceChange]
) -> None:
    server.rows = {f"{n}": (0, 1) for n in range(40)}
    poll()
    server.rows = {**server.rows, "7": (9, 2)}
    assert sum(poll().tally["quarantined"].values()) == 1


def test_a_reader_that_was_mended_reads_everything_again(
    server: type[Server], poll: Callable[[], commit.SourceChange], monkeypatch: pytest.MonkeyPatch
) -> None:
    poll()
    monkeypatch.setattr(feeds, "_code_digest", lambda package: "mended")
    poll()
    assert server.reads == [None, None]


def test_what_a_server_deleted_is_found_by_the_next_full_scan(
    server: type[Server], poll: Callable[[], commit.SourceChange]
) -> None:
    poll()
    server.rows = {"b": (0, 2), "c": (0, 3)}
    assert (change := poll()).retracted == 0
    assert change.live == 3
    server.rows = {"b": (0, 2), "c": (1, 4)}
    assert poll().live == 3
    assert (last := poll()).retracted == 1
    assert last.live == 2


def test_a_server_that_dies_while_it_is_read_changes_nothing(
    server: type[Server], poll: Callable[[], commit.SourceChange]
) -> None:
    poll()
    server.rows = {"a": (1, 3), "b": (1, 4)}
    server.dies_after = 1
    with pytest.raises(DataError, match="died"):
        poll()
    server.dies_after = None
    assert poll().edited == 2


def test_what_is_no_row_is_refused_by_its_type(
    poll: Callable[[], commit.SourceChange], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Server, "read_since", lambda self, watermark: iter([{"record_id": "a"}]))
    with pytest.raises(DataError, match="gave dict at position 1"):
        poll()
