from typing import Any

from rlhf.feedback.message_trees import oasst_messages, oasst_trees
from rlhf.feedback.records import Quarantined, Record
from rlhf.feedback.rows import AnnotationRow


def message(identity: str, parent: str | None, role: str, rank: Any = None, **more: Any) -> dict[str, Any]:
    return {
        "message_id": identity,
        "parent_id": parent,
        "role": role,
        "text": f"text {identity}",
        "rank": rank,
        "user_id": f"author {identity}",
        "created_date": "2023-02-04",
        **more,
    }


THREAD = [
    message("p", None, "prompter"),
    message("a1", "p", "assistant", 1),
    message("a0", "p", "assistant", 0.0),
    message("p2", "a0", "prompter"),
    message("b", "p2", "assistant"),
]


def outcomes(messages: list[dict[str, Any]]) -> tuple[list[AnnotationRow], list[Quarantined]]:
    found = list(oasst_messages((Record(n, m) for n, m in enumerate(messages, 1)), "oasst"))
    rows = [item for item in found if isinstance(item, AnnotationRow)]
    return rows, [item for item in found if isinstance(item, Quarantined)]


def test_ranked_siblings_are_one_ranking_and_the_best_a_demonstration() -> None:
    (ranking, best), refused = outcomes(THREAD)
    assert (ranking.record_id, ranking.kind) == ("p", "ranking")
    assert (ranking.responses, ranking.value) == (("text a0", "text a1"), [1, 2])
    assert (best.record_id, best.kind, best.value) == ("a0", "demonstration", "text a0")
    assert best.annotator == "author a0"
    assert refused == []


def test_a_parent_may_follow_its_replies() -> None:
    assert outcomes(THREAD[::-1])[0] == outcomes(THREAD)[0]


def test_the_prompt_is_the_whole_path_above() -> None:
    deeper = [*THREAD, message("c0", "p2", "assistant", 0), message("c1", "p2", "assistant", 1)]
    ranking = next(row for row in outcomes(deeper)[0] if row.record_id == "p2")
    assert [m["role"] for m in ranking.prompt] == ["user", "assistant", "user"]
    assert [m["content"] for m in ranking.prompt] == ["text p", "text a0", "text p2"]


def test_orphans_deleted_and_broken_messages_are_refused_with_their_line() -> None:
    rows, refused = outcomes(
        [
            *THREAD,
            message("o", "nowhere", "assistant", 0),
            message("oo", "o", "prompter"),
            message("d", "p", "assistant", 2, deleted=True),
            message("p", None, "prompter"),
            message("x", "p", "system"),
            message("y", "p", "assistant", "first"),
            message("z", "p", "assistant", 3, text=" "),
        ]
    )
    assert len(rows) == 2
    assert sorted((q.line, q.reason) for q in refused) == [
        (6, "a message above it in the thread is missing"),
        (7, "a message above it in the thread is missing"),
        (8, "message is marked as deleted"),
        (9, "message id occurs twice"),
        (10, "role is neither prompter nor assistant"),
        (11, "rank is not a whole number"),
        (12, "empty text"),
    ]


def test_parents_in_a_circle_do_not_hang() -> None:
    rows, refused = outcomes([message("a", "b", "prompter"), message("b", "a", "assistant", 0)])
    assert (rows, len(refused)) == ([], 2)


def test_a_whole_tree_in_one_record_gives_the_rows_of_its_messages() -> None:
    def grown(identity: str) -> dict[str, Any]:
        own = next(m for m in THREAD if m["message_id"] == identity)
        replies = [grown(m["message_id"]) for m in THREAD if m["parent_id"] == identity]
        return {**{k: v for k, v in own.items() if k != "parent_id"}, "replies": replies}

    tree = {"message_tree_id": "p", "prompt": grown("p")}
    assert list(oasst_trees([Record(1, tree)], "oasst")) == outcomes(THREAD)[0]
