"""OpenAssistant conversation trees: message rows that name their parent, or whole trees in one record. Ranked
sibling replies become rankings, the best reply of each a demonstration."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rlhf.feedback.records import BadRecordError, Outcome, Quarantined, Record, checked, excerpt_of, text_of
from rlhf.feedback.rows import AnnotationRow, Message

_ROLES = {"prompter": "user", "assistant": "assistant"}
# Ranks are merged from several raters before OpenAssistant publishes them.
_RANKED_BY = "aggregate"


@dataclass(frozen=True, slots=True)
class _Node:
    line: int
    id: str
    parent: str | None
    message: Message
    rank: int | None
    author: str
    created: str


def oasst_messages(records: Iterable[Record], source: str) -> Iterator[Outcome]:
    """Rows with ``message_id``, ``parent_id``, ``role``, ``text`` and ``rank``. All of them are held in
    memory: a parent may follow its replies. Deleted messages, and those whose thread is not complete, are
    quarantined."""
    nodes: dict[str, _Node] = {}
    for record in records:
        try:
            node = _node(record.line, record.values)
            if node.id in nodes:
                raise BadRecordError("message id occurs twice")
            nodes[node.id] = node
        except BadRecordError as bad:
            yield Quarantined(source, record.line, str(bad), excerpt_of(record.values))
    yield from _rows(nodes, source)


def oasst_trees(records: Iterable[Record], source: str) -> Iterator[Outcome]:
    """Records with a whole tree each: ``prompt`` is a message whose ``replies`` are messages in turn."""
    for record in records:
        nodes: dict[str, _Node] = {}
        pending: list[tuple[Any, str | None]] = [(record.values.get("prompt"), None)]
        while pending:
            message, parent = pending.pop()
            try:
                if not isinstance(message, Mapping):
                    raise BadRecordError("a message of the tree is not an object")
                node = _node(record.line, {**message, "parent_id": parent})
            except BadRecordError as bad:
                yield Quarantined(source, record.line, str(bad), excerpt_of(message))
                continue
            nodes[node.id] = node
            replies = message.get("replies")
            if isinstance(replies, list):
                pending.extend((reply, node.id) for reply in reversed(replies))
        yield from _rows(nodes, source)


def _node(line: int, values: Mapping[str, Any]) -> _Node:
    if str(values.get("deleted")).lower() == "true":
        raise BadRecordError("message is marked as deleted")
    role = str(values.get("role"))
    if role not in _ROLES:
        raise BadRecordError("role is neither prompter nor assistant")
    text = text_of(values, "text")
    if not text:
        raise BadRecordError("empty text")
    return _Node(
        line,
        text_of(values, "message_id"),
        text_of(values, "parent_id", optional=True) or None,
        Message(role=_ROLES[role], content=text),
        _rank(values.get("rank")),
        text_of(values, "user_id", optional=True) or "unknown",
        text_of(values, "created_date", optional=True),
    )


def _rank(value: Any) -> int | None:
    """Rank as a number; JSON has whole numbers, tables with gaps have floats, CSV has text."""
    if value is None or value == "":
        return None
    try:
        rank = float(value)
    except (TypeError, ValueError) as error:
        raise BadRecordError("rank is not a whole number") from error
    if isinstance(value, bool) or not rank.is_integer():
        raise BadRecordError("rank is not a whole number")
    return int(rank)


def _rows(nodes: Mapping[str, _Node], source: str) -> Iterator[Outcome]:
    ranked_replies: dict[str, list[_Node]] = defaultdict(list)
    for node in nodes.values():
        if node.parent is None:
            continue
        if _path(nodes, node.parent) is None:
            reason = "a message above it in the thread is missing"
            yield Quarantined(source, node.line, reason, excerpt_of(node.message["content"]))
        elif node.message["role"] == "assistant" and node.rank is not None:
            ranked_replies[node.parent].append(node)
    for parent, replies in ranked_replies.items():
        prompt = _path(nodes, parent)
        assert prompt is not None  # its replies were kept above
        replies.sort(key=lambda reply: (reply.rank, reply.id))
        if len(replies) > 1:
            row = AnnotationRow(
                record_id=parent,
                source=source,
                prompt=prompt,
                responses=tuple(reply.message["content"] for reply in replies),
                kind="ranking",
                value=[(reply.rank or 0) + 1 for reply in replies],
                annotator=_RANKED_BY,
                updated_at=max(reply.created for reply in replies),
            )
            yield checked(row, nodes[parent].line)
        for best in replies:
            if best.rank == 0:
                row = AnnotationRow(
                    record_id=best.id,
                    source=source,
                    prompt=prompt,
                    responses=(),
                    kind="demonstration",
                    value=best.message["content"],
                    annotator=best.author,
                    updated_at=best.created,
                )
                yield checked(row, best.line)


def _path(nodes: Mapping[str, _Node], leaf: str) -> tuple[Message, ...] | None:
    """Messages from the root down to ``leaf``; None if one is missing or the parents form a circle."""
    path: list[Message] = []
    at: str | None = leaf
    while at is not None:
        node = nodes.get(at)
        if node is None or len(path) > len(nodes):
            return None
        path.append(node.message)
        at = node.parent
    return tuple(reversed(path))
