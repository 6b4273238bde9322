"""The ledger under anything that may happen to it: whatever ingests, edits, retractions, rivals and crashes
come in whatever order, it ends as the final truth applied once, and has grown by what changed and no more."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf.feedback.ledger import commit, maintenance
from rlhf.feedback.ledger.reference import LedgerRef
from rlhf.feedback.ledger.state import read_state
from tests.rlhf.feedback.ledger.conftest import Desk, judgement

Truth = dict[tuple[str, tuple[str, int]], Any]
"""Value by record, and annotator with a number that tells judgements of one annotator apart."""

GONE = "gone"
WHO = [("ada", 0), ("ben", 0), ("unknown", 0), ("unknown", 1)]
EDITS = st.dictionaries(
    st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(WHO)),
    st.sampled_from([0, 1, None, GONE]),
    max_size=5,
)
DISTURBANCES = st.sampled_from(
    ["", "", "dies before", "dies after", "goes unheard", "another source", "the same source"]
)
"""What befalls a transaction, or who is faster."""
STEPS = st.lists(
    st.tuples(EDITS, DISTURBANCES, st.sampled_from([1, 1, 1, 2]), st.booleans()), min_size=2, max_size=7
)
"""Edits, what befalls which transaction of the ingest that follows (the second puts files together), and
whether the file is written backwards."""


class Crash(Exception):
    """The process dies here."""


def by_identity(truth: Truth) -> Mapping[tuple[str, str], set[Any]]:
    found: dict[tuple[str, str], set[Any]] = defaultdict(set)
    for (record, (annotator, _)), value in truth.items():
        found[record, annotator].add(value)
    return found


def growth(before: Truth, after: Truth) -> int:
    """New versions and tombstones that the difference takes at least."""
    old, new = by_identity(before), by_identity(after)
    sides = [(old.get(who, set()), new.get(who, set())) for who in {*old, *new}]
    return sum(max(len(was - now), len(now - was)) for was, now in sides)


class World:
    """A desk, what its file says, and how far the ledger must have come."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.truth: Truth = {("z", ("ada", 0)): 0}
        self.known: Truth = {}
        """What the ledger was last told."""
        self.grown = 0
        """Rows of the ledger."""
        self._rivals: Counter[str] = Counter()
        self._backwards = False

    def change(self, edits: Truth, *, backwards: bool) -> None:
        """Edit the file."""
        self.truth = {key: value for key, value in {**self.truth, **edits}.items() if value != GONE}
        self._backwards = backwards
        self.desk.write(self.rows())

    def rows(self) -> list[dict[str, Any]]:
        """What the file says."""
        rows = [judgement(record, value, who) for (record, (who, _)), value in self.truth.items()]
        return rows[::-1] if self._backwards else rows

    def ingested(self) -> None:
        """The ledger has been told what the file says."""
        self.grown += growth(self.known, self.truth)
        self.known = self.truth

    def ingest(self, what: str, at: int) -> LedgerRef | None:
        """One ingest, and what befalls its ``at``-th transaction; None if the process died."""
        real = DeltaTable.create_write_transaction
        begun = 0

        def transaction(*arguments: Any, **more: Any) -> None:
            nonlocal begun
            begun += 1
            if begun != at:
                return real(*arguments, **more)
            patch.undo()  # nothing befalls the rival
            if what == "dies before":
                raise Crash
            if what in ("another source", "the same source"):
                self._rival(what, behind=at > 1)
            real(*arguments, **more)
            if what == "dies after":
                raise Crash
            if what == "goes unheard":
                raise CommitFailedError("a version file already exists")

        reference = None
        with pytest.MonkeyPatch.context() as patch, suppress(Crash):
            if what:
                patch.setattr(DeltaTable, "create_write_transaction", transaction)
            reference = self.desk.ingest().reference
        if reference is not None or (what, at) != ("dies before", 1):
            self.ingested()
        return reference

    def _rival(self, what: str, *, behind: bool) -> None:
        """Another process ingests first; of the same source it sees what has been edited since."""
        self._rivals[what] += 1
        verdict = self._rivals[what] % 2  # never what this rival said last
        if what == "another source":
            self.desk.write([judgement("other", verdict)], "others")
            self.desk.ingest("others")
            self.grown += 1
        else:
            if behind:
                self.ingested()
            self.change({("late", ("ada", 0)): verdict}, backwards=self._backwards)
            self.desk.ingest()
            self.ingested()

    def check(self, reference: LedgerRef | None) -> None:
        """The ledger has a row for each change, numbered one by one, and says what the file says."""
        table = DeltaTable(self.desk.url).to_pyarrow_dataset().to_table(columns=["ledger_seq"])
        assert sorted(table["ledger_seq"].to_pylist()) == list(range(1, self.grown + 1))
        if reference is not None:
            assert reference.sequence == self.grown
            found = Counter(
                (row["record_id"], row["annotator"], json.loads(row["value"]))
                for row in read_state(reference).to_pylist()
            )
            assert found == Counter(
                (*who, value) for who, values in by_identity(self.truth).items() for value in values
            )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_any_interleaving_of_ingests_edits_rivals_and_crashes_ends_as_the_final_truth_applied_once(
    steps: list[tuple[Truth, str, int, bool]],
) -> None:
    with (
        TemporaryDirectory() as one,
        TemporaryDirectory() as other,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(maintenance, "_MOST_SMALL_FILES", 2)
        patch.setattr(commit, "_PAUSE_SECONDS", 0.0)
        world, once = World(Desk(Path(one))), Desk(Path(other))
        states = []
        for edits, what, at, backwards in steps:
            world.change(edits, backwards=backwards)
            reference = world.ingest(what, at)
            world.check(reference)
            if reference is not None:
                states.append((reference, read_state(reference)))
        once.write(world.rows())
        last, first = world.desk.ingest().reference, once.ingest().reference
        assert last.state_digest == first.state_digest
        assert read_state(last).equals(read_state(first))
        assert all(read_state(reference).equals(table) for reference, table in states)
        assert not world.desk.ingest().changes[0].committed
