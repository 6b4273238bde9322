"""The decision against its criteria, and the moves against a registry that fails at any call."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rlhf.errors import ConfigError, PromotionError
from rlhf.registry.champion import ChampionRef
from rlhf.registry.promotion import (
    PromotionDecision,
    PromotionOutcome,
    conclude,
    decide,
    decision_report,
    judge,
    promote,
)
from rlhf.registry.settings import Criterion, PromotionSettings
from rlhf.registry.store import Alias, Candidate, RegisteredVersion

WIN = Criterion(metric="eval/gold/win_rate_vs_sft_low", minimum=0.5)
KL = Criterion(metric="eval/kl", maximum=20.0)
GATE = PromotionSettings(criteria=(WIN, KL))
GOOD = {"eval/gold/win_rate_vs_sft_low": 0.6, "eval/kl": 9.0}
BAD = {"eval/gold/win_rate_vs_sft_low": 0.4, "eval/kl": 9.0}


class Crash(BaseException):
    """The process dies: nothing in the library may catch it."""


class MemoryStore:
    """A registry in memory that can be told to crash just before or just after its n-th write."""

    def __init__(self) -> None:
        self.versions: list[RegisteredVersion] = []
        self.aliases: dict[str, str] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.writes = 0
        self.crash_at: int | None = None
        self.crash_after = False
        self.after_write: Callable[[str], None] = lambda _: None

    def _write(self, name: str, action: Callable[[], None]) -> None:
        self.writes += 1
        crash = self.writes == self.crash_at
        if crash and not self.crash_after:
            raise Crash
        action()
        self.after_write(name)
        if crash:
            raise Crash

    def lock(self) -> AbstractContextManager[None]:
        return nullcontext()

    def at(self, alias: str) -> RegisteredVersion | None:
        return next((v for v in self.versions if v.version == self.aliases.get(alias)), None)

    def champion(self) -> RegisteredVersion | None:
        return self.at("champion")

    def find(self, digest: str) -> RegisteredVersion | None:
        return next((v for v in self.versions if v.digest == digest), None)

    def register(self, candidate: Candidate) -> RegisteredVersion:
        version = RegisteredVersion(str(len(self.versions) + 1), candidate.digest, candidate.path)
        self._write("register", lambda: self.versions.append(version))
        return version

    def set_alias(self, alias: Alias, version: str) -> None:
        self._write(alias, lambda: self.aliases.update({alias: version}))

    def set_tags(self, version: str, tags: Mapping[str, str]) -> None:
        self._write("tags", lambda: self.tags.setdefault(version, {}).update(tags))

    def state(self) -> tuple[object, ...]:
        return list(self.versions), dict(self.aliases), {k: dict(v) for k, v in self.tags.items()}


def reference(store: MemoryStore) -> ChampionRef:
    champion = store.champion()
    return champion.as_champion() if champion else ChampionRef()


def candidate(digest: str) -> Candidate:
    return Candidate(digest=digest, path=f"models/{digest}")


def gate(
    store: MemoryStore, digest: str, metrics: Mapping[str, float] = GOOD, settings: PromotionSettings = GATE
) -> PromotionDecision:
    return decide(metrics, settings, reference(store), candidate_digest=digest)


def crown(store: MemoryStore, digest: str) -> PromotionOutcome:
    return promote(store, candidate(digest), gate(store, digest))


def test_a_candidate_within_all_bounds_is_promoted_and_bounds_are_inclusive() -> None:
    decision = gate(MemoryStore(), "a", {"eval/gold/win_rate_vs_sft_low": 0.5, "eval/kl": 20.0})
    assert decision.promote
    assert all(r.passed for r in decision.reasons)


@pytest.mark.parametrize(
    ("metrics", "failing"),
    [
        ({"eval/gold/win_rate_vs_sft_low": 0.49, "eval/kl": 1.0}, {"eval/gold/win_rate_vs_sft_low"}),
        ({"eval/gold/win_rate_vs_sft_low": 0.9, "eval/kl": 20.1}, {"eval/kl"}),
        (
            {"eval/gold/win_rate_vs_sft_low": 0.1, "eval/kl": 99.0},
            {"eval/gold/win_rate_vs_sft_low", "eval/kl"},
        ),
    ],
)
def test_each_broken_bound_rejects_and_is_named(metrics: dict[str, float], failing: set[str]) -> None:
    decision = gate(MemoryStore(), "a", metrics)
    assert not decision.promote
    assert {r.metric for r in decision.reasons if not r.passed} == failing
    assert all(name in decision.summary for name in failing)


def test_a_missing_metric_is_an_error_that_names_it_and_those_that_exist() -> None:
    with pytest.raises(
        ConfigError, match=r"criteria\[1\].*'eval/kl'.*reports: eval/gold, eval/gold/win"
    ) as e:
        gate(MemoryStore(), "a", {"eval/gold": 1.0, "eval/gold/win_rate_vs_sft_low": 0.9})
    assert "champion" not in str(e.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_figure_that_is_not_finite_neither_passes_nor_fails_but_is_an_error(value: float) -> None:
    with pytest.raises(ConfigError, match="eval/kl"):
        judge(KL, {"eval/kl": value}, ChampionRef())


def test_a_criterion_against_the_champion_is_asked_only_when_there_is_one() -> None:
    versus = Criterion(metric="eval/gold/win_rate_vs_champion_low", minimum=0.5, when="champion")
    champion = ChampionRef(version="1", digest="x")
    assert judge(versus, {}, ChampionRef()).passed
    assert not judge(versus, {versus.metric: 0.4}, champion).passed
    with pytest.raises(ConfigError, match="win_rate_vs_champion_low"):
        judge(versus, {}, champion)
    with pytest.raises(ConfigError, match="when: champion"):
        judge(versus.model_copy(update={"when": "always"}), {}, ChampionRef())


def test_no_results_at_all_do_not_promote() -> None:
    assert not conclude([], GATE, ChampionRef(), candidate_digest="a").promote
    with pytest.raises(ValidationError, match="criteria"):
        PromotionSettings(criteria=())


@pytest.mark.parametrize("bounds", [{}, {"minimum": 2.0, "maximum": 1.0}])
def test_a_criterion_that_asks_nothing_or_the_impossible_is_refused(bounds: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="eval/kl"):
        Criterion(metric="eval/kl", **bounds)  # type: ignore[arg-type]


def test_half_a_champion_is_refused() -> None:
    with pytest.raises(ValidationError, match="both a version and a digest"):
        ChampionRef(version="3")


def test_the_champion_itself_is_not_promoted_again() -> None:
    store = MemoryStore()
    crown(store, "a")
    decision = gate(store, "a")
    assert not decision.promote
    assert "already the champion" in decision.summary
    before = store.state()
    assert promote(store, candidate("a"), decision).action == "already_champion"
    assert store.state() == before


def test_the_old_champion_becomes_previous() -> None:
    store = MemoryStore()
    first, second = crown(store, "a"), crown(store, "b")
    assert (first.champion.digest, first.previous.exists) == ("a", False)
    assert (second.champion.digest, second.previous.digest) == ("b", "a")
    assert (store.aliases["champion"], store.aliases["previous"], store.aliases["candidate"]) == (
        "2",
        "1",
        "2",
    )
    assert store.tags["2"]["promotion.against"] == "1"


def test_an_older_version_returns_without_a_duplicate() -> None:
    store = MemoryStore()
    for digest in "aba":
        crown(store, digest)
    assert [v.digest for v in store.versions] == ["a", "b"]
    assert (store.aliases["champion"], store.aliases["previous"]) == ("1", "2")


def test_a_rejected_candidate_is_registered_with_its_verdict_and_moves_no_champion() -> None:
    store = MemoryStore()
    crown(store, "a")
    outcome = promote(store, candidate("b"), gate(store, "b", BAD))
    assert (outcome.action, outcome.version) == ("rejected", "2")
    assert store.aliases == {"candidate": "2", "champion": "1"}
    assert store.tags["2"]["promotion.verdict"] == "reject"
    assert store.tags["2"]["promotion.eval.gold.win_rate_vs_sft_low"] == "0.4"


def test_a_dry_run_writes_nothing() -> None:
    store = MemoryStore()
    crown(store, "a")
    before = store.state()
    decision = gate(store, "b", settings=PromotionSettings(criteria=(WIN,), mode="dry_run"))
    outcome = promote(store, candidate("b"), decision)
    assert decision.promote
    assert (outcome.action, outcome.champion.digest) == ("dry_run", "a")
    assert store.state() == before


def test_a_champion_that_moved_meanwhile_stops_the_promotion_before_anything_is_written() -> None:
    store = MemoryStore()
    crown(store, "a")
    stale = gate(store, "c")
    crown(store, "b")
    before = store.state()
    with pytest.raises(PromotionError, match=r"champion is version 2 .* not version 1"):
        promote(store, candidate("c"), stale)
    with pytest.raises(PromotionError, match="not nobody"):
        promote(store, candidate("c"), gate(store, "c"), ChampionRef())
    assert store.state() == before


def test_a_verdict_of_already_champion_does_not_outlive_the_champion() -> None:
    store = MemoryStore()
    crown(store, "a")
    stale = gate(store, "a")
    crown(store, "b")
    with pytest.raises(PromotionError, match="another run moved it"):
        promote(store, candidate("a"), stale)


def test_a_race_lost_on_a_registry_without_locks_is_found() -> None:
    store = MemoryStore()
    crown(store, "a")
    decision = gate(store, "b")

    def rival(write: str) -> None:
        if write == "champion":
            store.aliases["champion"] = "1"

    store.after_write = rival
    with pytest.raises(PromotionError, match="champion is version 1"):
        promote(store, candidate("b"), decision)


def test_a_decision_about_another_model_is_refused() -> None:
    store = MemoryStore()
    with pytest.raises(PromotionError, match="about model a, not b"):
        promote(store, candidate("b"), gate(store, "a"))


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.lists(st.tuples(st.integers(1, 5), st.booleans()), max_size=4)),
        max_size=6,
    ),
    st.booleans(),
)
def test_promotions_crashed_at_any_write_and_run_again_end_as_if_never_interrupted(
    plan: list[tuple[str, list[tuple[int, bool]]]], decide_again: bool
) -> None:
    store = MemoryStore()
    for digest, crashes in plan:
        old = store.champion()
        previous = store.aliases.get("previous")
        decision = gate(store, digest)
        for write, after in crashes:
            store.writes, store.crash_at, store.crash_after = 0, write, after
            with suppress(Crash):
                promote(store, candidate(digest), decision)
            if decide_again:  # a re-run of the pipeline asks for the champion anew, a retried step does not
                decision = gate(store, digest)
        store.crash_at = None
        promote(store, candidate(digest), decision)
        champion = store.champion()
        assert champion is not None
        assert champion.digest == digest
        expected = previous if old is None or old.digest == digest else old.version
        assert store.aliases.get("previous") == expected
        assert store.tags[champion.version]["promotion.verdict"] == "promote"
    assert len({v.digest for v in store.versions}) == len(store.versions)


def test_a_decision_survives_json_and_its_report_holds_every_reason() -> None:
    decision = gate(MemoryStore(), "a", BAD)
    assert PromotionDecision.model_validate_json(decision.model_dump_json()) == decision
    report = decision_report(decision)
    assert report.data["promote"] is False
    assert [r["value"] for r in report.data["reasons"]] == [0.4, 9.0]
    assert "eval/gold/win_rate_vs_sft_low is 0.4, below the minimum 0.5." in report.html
