"""What may go is what nothing worth keeping leads to, and nothing else."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from rlhf.registry.retention import ArtifactRecord, Plan, RunRecord, plan

NOW = datetime(2026, 11, 21, tzinfo=UTC)
MONTH = timedelta(days=30)


def run(name: str, age: int, *artifacts: str, ended: bool = True) -> RunRecord:
    return RunRecord(name, name, NOW - timedelta(days=age), ended, frozenset(artifacts))


def artifact(name: str, age: int, producer: str | None = None) -> ArtifactRecord:
    return ArtifactRecord(name, name, f"store/{name}", f"d-{name}", NOW - timedelta(days=age), producer)


def planned(runs: list[RunRecord], artifacts: list[ArtifactRecord], *kept: str) -> tuple[set[str], set[str]]:
    found = _plan(runs, artifacts, *kept)
    return {r.id for r in found.runs}, {a.id for a in found.artifacts}


def _plan(runs: list[RunRecord], artifacts: list[ArtifactRecord], *kept: str) -> Plan:
    digests = {f"d-{name}" for name in kept}
    return plan(runs, artifacts, digests=digests, run_ids=(), older_than=MONTH, now=NOW)


def test_a_champion_keeps_its_lineage_also_where_an_older_run_made_part_of_it() -> None:
    runs = [run("r1", 90, "data", "sft"), run("r2", 60, "data", "sft", "policy"), run("r3", 50, "other")]
    artifacts = [
        artifact("data", 90, "r1"),
        artifact("sft", 90, "r1"),
        artifact("policy", 60, "r2"),
        artifact("other", 50, "r3"),
    ]
    assert planned(runs, artifacts, "policy") == ({"r3"}, {"other"})
    assert planned(runs, artifacts) == ({"r1", "r2", "r3"}, {"data", "sft", "policy", "other"})


def test_a_young_run_keeps_what_it_took_from_the_cache() -> None:
    runs = [run("old", 90, "data", "worse"), run("new", 3, "data")]
    artifacts = [artifact("data", 90, "old"), artifact("worse", 90, "old")]
    assert planned(runs, artifacts) == (set(), set())
    assert planned([run("old", 90, "worse"), run("new", 3, "data")], [artifact("worse", 90, "old")]) == (
        {"old"},
        {"worse"},
    )


def test_a_run_that_never_ended_is_kept_until_it_must_be_dead() -> None:
    dead, slow = run("dead", 31, ended=False), run("slow", 29, ended=False)
    found = plan([dead, slow], [], digests=(), run_ids=(), older_than=timedelta(0), now=NOW)
    assert found.runs == (dead,)


def test_an_artifact_without_any_run_goes_when_it_is_old() -> None:
    assert planned([], [artifact("orphan", 90), artifact("fresh", 1)]) == (set(), {"orphan"})


@given(
    st.lists(st.tuples(st.integers(0, 60), st.sets(st.integers(0, 9), max_size=4)), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 5) | st.none()), min_size=10, max_size=10),
    st.sets(st.integers(0, 9), max_size=3),
)
def test_nothing_that_is_kept_leads_to_anything_that_goes(
    made: list[tuple[int, set[int]]], versions: list[tuple[int, int | None]], kept: set[int]
) -> None:
    runs = [run(f"r{i}", age, *(f"a{n}" for n in used)) for i, (age, used) in enumerate(made)]
    artifacts = [
        artifact(f"a{i}", age, None if by is None else f"r{by}") for i, (age, by) in enumerate(versions)
    ]
    gone_runs, gone = planned(runs, artifacts, *(f"a{n}" for n in kept))
    assert not gone & {f"a{n}" for n in kept}
    for one in runs:
        if one.id not in gone_runs:
            assert not one.artifacts & gone
        else:
            assert one.started < NOW - MONTH
    for one_artifact in artifacts:
        if one_artifact.id not in gone:
            assert one_artifact.producer not in gone_runs
        else:
            assert one_artifact.created < NOW - MONTH
