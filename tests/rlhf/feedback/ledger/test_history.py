from rlhf.feedback.ledger import history
from tests.rlhf.feedback.ledger.conftest import Desk, judgement


def test_every_version_of_a_record_says_from_when_to_when_it_counted(desk: Desk) -> None:
    for rows in ([judgement("a"), judgement("b")], [judgement("a", 1), judgement("b")], [judgement("b")]):
        desk.write(rows)
        desk.ingest()
    versions = history.versions(desk.url, "record", "a")
    assert [(v.row["value"], v.first, v.end) for v in versions] == [("0", 1, 3), ("1", 3, 4)]
    assert [[v.counts_at(n) for v in versions] for n in (1, 2, 3, 4)] == [
        [True, False],
        [True, False],
        [False, True],
        [False, False],
    ]
    assert [v.end for v in history.versions(desk.url, "record", "b")] == [None]
    assert history.versions(desk.url, "record", "c") == []


def test_versions_of_an_annotator_are_found_in_all_sources(desk: Desk) -> None:
    desk.write([judgement("a", annotator="ada"), judgement("a", annotator="ben")])
    desk.write([judgement("b", annotator="ada")], "others")
    desk.ingest("votes", "others")
    assert [v.row["record_id"] for v in history.versions(desk.url, "annotator", "ada")] == ["a", "b"]


def test_the_log_names_the_counts_of_each_ingest(desk: Desk) -> None:
    desk.write([judgement("a"), judgement("b")])
    desk.ingest()
    desk.write([judgement("a", 1), judgement("c")])
    desk.ingest()
    [(key, last)] = history.log(desk.url)[0].sources.items()
    assert key.startswith("votes-")
    assert last["counts"] == {
        "new": 1,
        "edited": 1,
        "retracted": 1,
        "unchanged": 0,
        "kept_out": 0,
        "quarantined": 0,
    }
    assert [commit.last_sequence for commit in history.log(desk.url)] == [5, 2]


def test_two_states_differ_by_what_was_put_and_retracted_between_them(desk: Desk) -> None:
    states = []
    for rows in (
        [judgement("a"), judgement("b"), judgement("c")],
        [judgement("a", 1), judgement("b"), judgement("d"), judgement("e")],
    ):
        desk.write(rows)
        states.append(desk.ingest().reference.sequence)
    [difference] = history.diff(desk.url, *states)
    assert (difference.added, difference.edited, difference.removed, difference.unchanged) == (2, 1, 1, 1)
    [back] = history.diff(desk.url, *reversed(states))
    assert (back.added, back.edited, back.removed, back.unchanged) == (1, 1, 2, 1)
    assert {row["record_id"] for row in history.changed_rows(desk.url, *states, most=10)} == {"a", "d", "e"}
