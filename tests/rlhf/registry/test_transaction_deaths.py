"""Moves in the registry whose process dies: at any line, at any write, again and again."""

import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import rlhf.registry.transaction as transaction
from rlhf.errors import PromotionError
from rlhf.registry.champion import ChampionRef
from rlhf.registry.promotion import PromotionDecision
from rlhf.registry.store import CHAMPION, POLICY, REWARD_MODEL, at
from rlhf.registry.transaction import appoint, history, promote, recover, repair, rollback
from tests.rlhf.registry.memory_store import Crash, MemoryStore
from tests.rlhf.registry.moves import candidate, decision, store_of


def _dying_at_line(number: int, call: Callable[[], object]) -> bool:
    """Whether ``call`` was killed before the n-th line that it runs in the module."""
    lines = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        if frame.f_code.co_filename != transaction.__file__:
            return None
        if event == "line":
            lines += 1
            if lines >= number:  # and nothing is cleaned up afterwards
                raise Crash
        return trace

    outer = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except Crash:
        return True
    finally:
        sys.settrace(outer)
    return False


MOVES: dict[str, Callable[[MemoryStore, PromotionDecision], object]] = {
    "promotion": lambda store, made: promote(store, candidate("c"), made),
    "rollback": lambda store, _: rollback(store, by="eve", why="w"),
    "appointment": lambda store, _: appoint(store, "1", by="eve", why="w"),
}


@pytest.mark.parametrize("name", MOVES)
def test_a_move_that_dies_at_any_line_is_finished_or_undone_and_the_mirror_agrees(name: str) -> None:
    reference = store_of("a", "b")
    old = dict(reference.shared.aliases)
    MOVES[name](reference, decision(reference, "c"))
    new = dict(reference.shared.aliases)
    assert old != new
    ends, line = set(), 0
    while True:
        line += 1
        store = store_of("a", "b")
        made = decision(store, "c")
        if not _dying_at_line(line, lambda store=store, made=made: MOVES[name](store, made)):  # type: ignore[misc]
            break
        store.shared.locks.clear()  # the system's doing
        repair(MemoryStore(store.shared))
        assert store.shared.journal is None, line
        assert store.shared.mirrored == store.mirrorable(), line
        done = store.shared.aliases == new
        assert done or store.shared.aliases == old, line
        assert (len(history(store)) == 3) == done, line
        ends.add(done)
        if name == "promotion":
            assert promote(store, candidate("c"), made).champion.digest == "c", line
            assert store.shared.aliases == new, line
    assert ends == {True, False}
    assert line > 30


def test_recovery_that_dies_at_any_line_is_recovered_from() -> None:
    for write in range(1, 40):
        for line in range(1, 60):
            store = store_of("a")
            store.writes, store.crash_at = 0, write
            made = decision(store, "b")
            with suppress(Crash):
                promote(store, candidate("b"), made)
                return
            store.crash_at = None
            if not _dying_at_line(line, lambda store=store: repair(store)):  # type: ignore[misc]
                break
            store.shared.locks.clear()
            repair(store)
            assert store.shared.journal is None
            assert store.shared.mirrored == store.mirrorable()
            assert store.shared.aliases["policy@champion"] in {"1", "2"}


class Monthly(RuleBasedStateMachine):
    """Promotions, rollbacks and crashes in any order, against the plain rules of who stands where."""

    @initialize()
    def begin(self) -> None:
        self.store = MemoryStore()
        self.champion: str | None = None
        self.previous: str | None = None
        self.moves = 0

    def _attempt(self, move: Callable[[], object], crash: tuple[int, bool] | None) -> bool:
        """Whether the move was made, by itself or by the repair after its death."""
        before = len(history(self.store))
        self.store.writes = 0
        self.store.crash_at, self.store.crash_after = crash or (None, False)
        with suppress(Crash):
            move()
        self.store.crash_at = None
        if self.store.shared.journal is not None:
            with self.store.lock():
                recover(self.store)
        return len(history(self.store)) > before

    crashes = st.none() | st.tuples(st.integers(1, 22), st.booleans())

    @rule(digest=st.sampled_from("abcde"), wins=st.booleans(), crash=crashes)
    def challenge(self, digest: str, wins: bool, crash: tuple[int, bool] | None) -> None:
        made = decision(self.store, digest, wins=wins)
        moved = self._attempt(lambda: promote(self.store, candidate(digest), made), crash)
        if moved and made.promote:
            self.champion, self.previous = digest, self.champion
        self.moves += moved

    @precondition(lambda self: self.previous is not None)
    @rule(crash=crashes)
    def return_to_previous(self, crash: tuple[int, bool] | None) -> None:
        if self._attempt(lambda: rollback(self.store, by="eve", why="w"), crash):
            self.champion, self.previous = self.previous, self.champion
            self.moves += 1

    @precondition(lambda self: self.champion is not None)
    @rule(digest=st.sampled_from("abcde"))
    def decide_too_late(self, digest: str) -> None:
        current = at(self.store, CHAMPION)
        assert current is not None
        if digest == self.champion:
            return
        stale = decision(self.store, digest).model_copy(update={"champion": ChampionRef()})
        before = self.store.state()
        with pytest.raises(PromotionError):
            promote(self.store, candidate(digest), stale)
        assert self.store.state() == before

    @invariant()
    def registries_are_equal_and_right(self) -> None:
        assert self.store.shared.journal is None
        if not self.store.shared.models:
            return
        assert self.store.shared.mirrored == self.store.mirrorable()
        names = {
            f"{model}@{version.version}": version.digest
            for model in (POLICY, REWARD_MODEL)
            for version in self.store.versions(model)
        }
        aliases = self.store.aliases()
        held = {place: names[f"{place.split('@')[0]}@{v}"] for place, v in aliases.items()}
        for alias, digest in (("champion", self.champion), ("previous", self.previous)):
            assert held.get(f"policy@{alias}") == digest
            assert held.get(f"reward-model@{alias}") == (digest and f"proxy-{digest}")
            assert held.get(f"reward-model@{alias}-judge") == (digest and f"judge-{digest}")
        digests = [v.digest for v in self.store.versions(POLICY)]
        assert len(set(digests)) == len(digests)
        assert len(history(self.store)) == self.moves


TestMonthly = Monthly.TestCase
TestMonthly.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
