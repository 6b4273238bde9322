import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.feedback.ledger.changes import Changes, compare, latest
from rlhf.feedback.ledger.spool import INCOMING, STORED

READINGS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=12)
"""(identity, content) of each row."""


def incoming(rows: list[tuple[int, int]]) -> np.ndarray:
    return np.array([(who, 0, what, 0, at) for at, (who, what) in enumerate(rows)], INCOMING)


def applied(live: np.ndarray, rows: list[tuple[int, int]], changes: Changes) -> np.ndarray:
    """The ledger's live keys after the changes have been appended."""
    first = int(live["seq"].max(initial=0)) + 1
    puts = [
        (rows[row][0], 0, rows[row][1], 0, position, 1, first + at)
        for at, (row, position) in enumerate(zip(changes.rows, changes.positions, strict=True))
    ]
    gone = changes.tombstones.copy()
    gone["put"] = 0
    gone["seq"] = first + len(puts) + np.arange(len(gone))
    return latest(np.concatenate([live, np.array(puts, STORED), gone]))


def content(live: np.ndarray) -> list[tuple[int, int]]:
    return sorted(zip(live["id0"].tolist(), live["h0"].tolist(), strict=True))


@settings(deadline=None)  # the machine may be busy
@given(st.lists(READINGS, min_size=1, max_size=5))
def test_after_every_complete_reading_the_ledger_says_what_the_source_says(
    readings: list[list[tuple[int, int]]],
) -> None:
    live = np.zeros(0, STORED)
    for rows in readings:
        changes = compare(incoming(rows), live, complete=True, one_each=False)
        live = applied(live, rows, changes)
        assert content(live) == sorted(set(rows))
        state = [(int(k["id0"]), int(k["h0"])) for k in changes.state]
        assert state == content(live)
        again = compare(incoming(rows), live, complete=True, one_each=False)
        assert len(again.rows) == len(again.tombstones) == 0


@settings(deadline=None)  # the machine may be busy
@given(READINGS, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing(rows: list[tuple[int, int]], rng: np.random.Generator) -> None:
    none = np.zeros(0, STORED)
    live = applied(none, rows, compare(incoming(rows), none, complete=True, one_each=False))
    shuffled = list(rows)
    rng.shuffle(shuffled)
    again = compare(incoming(shuffled), live, complete=True, one_each=False)
    assert len(again.rows) == len(again.tombstones) == 0


@settings(deadline=None)  # the machine may be busy
@given(READINGS, READINGS)
def test_an_incomplete_reading_removes_nothing_and_the_last_row_of_an_identity_counts(
    first: list[tuple[int, int]], second: list[tuple[int, int]]
) -> None:
    live = np.zeros(0, STORED)
    for rows in (first, second):
        changes = compare(incoming(rows), live, complete=False, one_each=True)
        assert len(changes.tombstones) == 0
        live = applied(live, rows, changes)
    assert content(live) == sorted({**dict(first), **dict(second)}.items())


def test_a_row_gone_from_among_equals_is_one_tombstone_and_no_edit() -> None:
    none = np.zeros(0, STORED)
    rows = [(1, 5), (1, 6), (1, 7)]
    live = applied(none, rows, compare(incoming(rows), none, complete=True, one_each=False))
    changes = compare(incoming(rows[1:]), live, complete=True, one_each=False)
    assert (changes.new, changes.edited, len(changes.tombstones)) == (0, 0, 1)
    assert changes.tombstones["h0"].tolist() == [5]
