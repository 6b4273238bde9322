"""Moves in the registry: what each does, what it refuses, and what history says of it."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rlhf.errors import PromotionError
from rlhf.registry.champion import ChampionRef
from rlhf.registry.journal import Journal
from rlhf.registry.store import CHAMPION, POLICY, REWARD_MODEL, at
from rlhf.registry.transaction import (
    LEASE_SECONDS,
    appoint,
    history,
    mark_pruned,
    promote,
    repair,
    rollback,
    settled_champion,
)
from tests.rlhf.registry.memory_store import MemoryStore, Registries
from tests.rlhf.registry.moves import candidate, crown, decision, store_of


def test_a_promotion_moves_the_policy_and_its_reward_models_together() -> None:
    store = store_of("a")
    outcome = crown(store, "b")
    assert (outcome.action, outcome.champion.digest, outcome.previous.digest) == ("promoted", "b", "a")
    assert store.aliases() == {
        "policy@candidate": "2",
        "policy@champion": "2",
        "policy@previous": "1",
        "reward-model@candidate": "3",
        "reward-model@candidate-judge": "4",
        "reward-model@champion": "3",
        "reward-model@champion-judge": "4",
        "reward-model@previous": "1",
        "reward-model@previous-judge": "2",
    }
    assert store.versions(REWARD_MODEL)[2].digest == "proxy-b"


def test_a_champion_without_reward_models_leaves_none_of_its_predecessor_in_place() -> None:
    store = store_of("a")
    promote(store, replace(candidate("b"), reward_models={}), decision(store, "b"))
    assert {p for p in store.aliases() if p.startswith(REWARD_MODEL)} == {
        "reward-model@previous",
        "reward-model@previous-judge",
    }


def test_a_rejected_candidate_is_registered_with_its_verdict_and_moves_no_champion() -> None:
    store = store_of("a")
    outcome = crown(store, "b", wins=False)
    assert (outcome.action, outcome.version, outcome.champion.digest) == ("rejected", "2", "a")
    assert (store.aliases()["policy@candidate"], store.aliases()["policy@champion"]) == ("2", "1")
    tags = store.versions(POLICY)[1].tags
    assert tags["promotion.verdict"] == "reject"
    assert len(tags["promotion.decision"]) == 64


def test_the_champion_itself_is_not_promoted_again() -> None:
    store = store_of("a")
    before = store.state()
    assert crown(store, "a").action == "already_champion"
    assert store.state() == before


def test_an_older_version_returns_without_a_duplicate() -> None:
    store = store_of("a", "b", "a")
    assert [v.digest for v in store.versions(POLICY)] == ["a", "b"]
    assert len(store.versions(REWARD_MODEL)) == 4
    assert (store.aliases()["policy@champion"], store.aliases()["policy@previous"]) == ("1", "2")


def test_a_dry_run_writes_nothing() -> None:
    store = store_of("a")
    before = store.state()
    outcome = promote(store, candidate("b"), decision(store, "b", mode="dry_run"))
    assert (outcome.action, outcome.champion.digest) == ("dry_run", "a")
    assert store.state() == before


def test_a_champion_that_moved_meanwhile_stops_the_promotion_before_anything_is_written() -> None:
    store = store_of("a")
    stale = decision(store, "c")
    crown(store, "b")
    before = store.state()
    with pytest.raises(PromotionError, match=r"champion is version 2 .* not version 1"):
        promote(store, candidate("c"), stale)
    with pytest.raises(PromotionError, match="not nobody"):
        promote(store, candidate("c"), decision(store, "c"), ChampionRef())
    assert store.state() == before


def test_a_verdict_of_already_champion_does_not_outlive_the_champion() -> None:
    store = store_of("a")
    stale = decision(store, "a")
    crown(store, "b")
    with pytest.raises(PromotionError, match="another run moved it"):
        promote(store, candidate("a"), stale)


def test_a_decision_about_another_model_is_refused() -> None:
    store = MemoryStore()
    with pytest.raises(PromotionError, match="about model a, not b"):
        promote(store, candidate("b"), decision(store, "a"))


def test_of_two_promotions_at_once_on_two_machines_one_wins_and_the_other_is_told_who_is_at_it() -> None:
    here = store_of("a")
    there = MemoryStore(here.shared, place="there")
    mine, theirs = decision(here, "b"), decision(there, "c")
    refused: list[str] = []

    def rival(write: str) -> None:
        if write == "register policy" and not refused:
            with pytest.raises(PromotionError) as error:
                promote(there, candidate("c"), theirs)
            refused.append(str(error.value))

    here.after_write = rival
    assert promote(here, candidate("b"), mine).action == "promoted"
    assert "A promotion by ann on here is under way" in refused[0]
    with pytest.raises(PromotionError, match="another run moved it"):  # when it tries again
        promote(there, candidate("c"), theirs)


def test_a_process_that_slept_through_its_lease_moves_nothing_more() -> None:
    slow = store_of("a")
    other = MemoryStore(slow.shared, place="there")
    taken: list[Any] = []

    def overtaken(write: str) -> None:
        if write == "reward-model@previous" and not taken:
            taken.append(repair(other, force=True))
            crown(other, "c")
            taken.append(slow.state())

    stale = decision(slow, "b")
    slow.after_write = overtaken
    with pytest.raises(PromotionError, match="Another process closed this promotion"):
        promote(slow, candidate("b"), stale)
    assert taken[0] == "finished"
    assert slow.state() == taken[1]


def test_another_machines_move_is_left_alone_until_its_lease_is_over() -> None:
    store = store_of("a")
    foreign = Journal(action="promotion", by="bob", why="w", place="there")
    store.shared.journal = foreign
    with pytest.raises(PromotionError, match="repair --force"):
        repair(store)
    champion = settled_champion(store)  # a run that begins is not held up
    assert champion is not None
    assert champion.digest == "a"
    assert store.shared.journal == foreign
    store.shared.journal = foreign.model_copy(
        update={"at": foreign.at - timedelta(seconds=LEASE_SECONDS + 1)}
    )
    assert repair(store) == "undone"
    assert store.shared.journal is None


def test_an_error_of_the_registry_before_the_commit_closes_the_move(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = store_of("a")
    made = decision(store, "b")

    def away(*_: object) -> None:
        raise ConnectionError("the server is away")

    with monkeypatch.context() as patch:
        patch.setattr(store, "register", away)
        with pytest.raises(ConnectionError):
            promote(store, candidate("b"), made)
    assert store.shared.journal is None
    with monkeypatch.context() as patch:
        patch.setattr(store, "follow", away)
        with pytest.raises(ConnectionError):
            promote(store, candidate("b"), made)
    assert store.shared.journal is not None  # committed: to be finished
    assert repair(store) == "finished"
    assert store.aliases()["policy@champion"] == "2"


def test_rollback_returns_to_the_previous_champion_and_can_be_undone() -> None:
    store = store_of("a", "b")
    crown(store, "c", wins=False)
    rollback(store, by="eve", why="complaints")
    aliases = store.aliases()
    assert (aliases["policy@champion"], aliases["policy@previous"]) == ("1", "2")
    assert (aliases["reward-model@champion"], aliases["reward-model@previous-judge"]) == ("1", "4")
    assert aliases["policy@candidate"] == "3"
    rollback(store, by="eve", why="false alarm")
    assert store.aliases()["policy@champion"] == "2"


def test_rollback_goes_only_where_a_champion_was_and_its_files_are() -> None:
    store = MemoryStore()
    with pytest.raises(PromotionError, match="no champion to roll back"):
        rollback(store, by="eve", why="w")
    crown(store, "a")
    with pytest.raises(PromotionError, match="first champion"):
        rollback(store, by="eve", why="w")
    crown(store, "b")
    crown(store, "c", wins=False)
    with pytest.raises(PromotionError, match="registry promote 3"):
        rollback(store, "v3", by="eve", why="w")
    with pytest.raises(PromotionError, match="no policy '9'"):
        rollback(store, "9", by="eve", why="w")
    with pytest.raises(PromotionError, match="the champion already"):
        rollback(store, "champion", by="eve", why="w")
    store.gone.add("a")
    with pytest.raises(PromotionError, match=r"files of version 1 are gone \(models/a\)"):
        rollback(store, by="eve", why="w")
    assert store.shared.journal is None
    assert appoint(store, "3", by="eve", why="the gate was wrong").champion.digest == "c"


def test_a_pruned_version_is_never_champion_again_and_its_content_is_registered_anew() -> None:
    store = store_of("a", "b", "c")
    assert mark_pruned(store, {"models/a", "models/proxy-a"}, by="ann") == ["policy@1", "reward-model@1"]
    with pytest.raises(PromotionError, match="files of version 1 are gone"):
        rollback(store, "1", by="eve", why="w")
    with pytest.raises(PromotionError, match="Version 2 became policy@previous meanwhile"):
        mark_pruned(store, {"models/b"}, by="ann")
    assert crown(store, "a").version == "4"
    assert store.versions(POLICY)[3].reward_model("proxy") != "1"


def test_history_names_who_when_why_and_on_what_evidence() -> None:
    store = store_of("a")
    crown(store, "b", wins=False)
    appoint(store, "candidate", by="eve", why="seen by people")
    rollback(store, by="bob", why="complaints")
    told = history(store)
    assert [(j.action, j.by, j.version) for j in told] == [
        ("rollback", "bob", "1"),
        ("appointment", "eve", "2"),
        ("candidacy", "ann", "2"),
        ("promotion", "ann", "1"),
    ]
    assert told[0].before["policy@champion"] == "2"
    assert told[0].why == "complaints"
    assert told[2].evidence["verdict"] == "reject"
    assert told[2].evidence["decision"] == store.versions(POLICY)[1].tags["promotion.decision"]
    assert told[0].at >= told[1].at >= told[2].at


def test_registries_of_two_processes_share_nothing_but_what_outlives_them() -> None:
    shared = Registries()
    crown(MemoryStore(shared), "a")
    champion = at(MemoryStore(shared), CHAMPION)
    assert champion is not None
    assert champion.digest == "a"
