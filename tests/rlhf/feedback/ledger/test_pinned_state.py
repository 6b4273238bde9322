"""Sentences about a run that is pinned to a sequence number of the ledger."""

import pytest

from rlhf.errors import DataError, LedgerError
from rlhf.feedback.ledger.ingest import LedgerIngest, ingest_into_ledger
from rlhf.feedback.ledger.settings import LedgerSettings
from tests.rlhf.feedback.ledger.conftest import Desk, judgement


def _pinned(desk: Desk, sequence: int, *names: str) -> LedgerIngest:
    settings = desk.settings(names or ("votes",))
    ledger = LedgerSettings(url=desk.url, sequence=sequence)
    return ingest_into_ledger(settings.model_copy(update={"ledger": ledger}))


def test_a_pinned_run_has_the_reference_of_that_time_and_reads_no_source(desk: Desk) -> None:
    desk.write([judgement("a"), judgement("b")])
    then = desk.ingest().reference
    desk.write([judgement("a", value=1), judgement("b"), judgement("c")])
    assert desk.ingest().reference.sequence == 4
    (desk.folder / "votes.jsonl").write_text("no longer JSON")
    found = _pinned(desk, then.sequence)
    assert found.reference == then
    assert found.report.data["sequence"] == 2


def test_a_number_that_the_ledger_has_not_reached_is_refused_with_where_it_stands(desk: Desk) -> None:
    desk.write([judgement("a")])
    desk.ingest()
    with pytest.raises(LedgerError, match=r"feedback\.ledger\.sequence.*stands at 1"):
        _pinned(desk, 2)


def test_a_state_without_rows_of_the_configs_sources_is_refused(desk: Desk) -> None:
    desk.write([judgement("a")])
    desk.ingest()
    desk.write([judgement("x")], "others")
    with pytest.raises(DataError, match="at sequence 1"):
        _pinned(desk, 1, "others")
