"""What a reading of a source changes, by comparing keys alone: sorting and neighbours, no loop over rows.

Several rows of one source may share an identity (annotators without a name, several judgements of the same
question), so each has a position as well. Equal content keeps its position whatever order the rows came in;
what remains is paired in order, as versions of the same row.
"""

from dataclasses import dataclass

import numpy as np

from rlhf.feedback.ledger.keys import IDENTITY
from rlhf.feedback.ledger.spool import sorted_by, starts

_ID = ("id0", "id1")
_CONTENT = (*_ID, "h0", "h1")


@dataclass(frozen=True)
class Changes:
    """The difference between one part of a reading and the same part of the ledger."""

    rows: np.ndarray
    """Numbers of rows to put, in no order."""
    positions: np.ndarray
    """The position of each."""
    tombstones: np.ndarray
    """Keys of stored rows that are gone."""
    state: np.ndarray
    """Keys of all rows that are live afterwards, sorted by identity and content."""
    new: int
    edited: int
    repeated: np.ndarray
    """Numbers of rows that say what another row of the reading says."""


def latest(stored: np.ndarray) -> np.ndarray:
    """Of stored keys the last version of each identity and position, without those that end in a
    tombstone."""
    ordered = sorted_by(stored, *_ID, "position", "seq")
    last = np.append(starts(ordered, (*_ID, "position"))[1:], True)[: len(ordered)]
    return ordered[last & (ordered["put"] == 1)]


def compare(
    incoming: np.ndarray,
    live: np.ndarray,
    *,
    complete: bool,
    one_each: bool,
    reread: np.ndarray | None = None,
) -> Changes:
    """Compare a reading with what the ledger has.

    Args:
        incoming: keys of ``INCOMING`` in any order.
        live: keys of ``STORED`` from :func:`latest`.
        complete: whether what is missing in the reading is gone, not only unread.
        one_each: whether the source has one row for an identity, so that of several the last read counts.
        reread: of a reading that is not complete, the identities (fields ``id0`` and ``id1``) in records that
            it gave whole: those of them that are missing are gone.
    """
    read = incoming["row"]
    if one_each:
        ordered = sorted_by(incoming, *_ID, "row")
        incoming = ordered[np.append(starts(ordered, _ID)[1:], True)[: len(ordered)]]
    ordered = sorted_by(incoming, *_CONTENT, "row")
    incoming = ordered[starts(ordered, _CONTENT)]
    group_in, group_live = _groups(incoming, live)
    same_in, same_live = _matches(
        np.column_stack([group_in, incoming["h0"], incoming["h1"]]),
        np.column_stack([group_live, live["h0"], live["h1"]]),
    )
    left_in, left_live = np.flatnonzero(~same_in), np.flatnonzero(~same_live)
    left_in = left_in[np.lexsort((incoming["row"][left_in], group_in[left_in]))]
    left_live = left_live[np.lexsort((live["position"][left_live], group_live[left_live]))]
    turn_in, turn_live = _turns(group_in[left_in]), _turns(group_live[left_live])
    edited, superseded = _matches(
        np.column_stack([group_in[left_in], turn_in]), np.column_stack([group_live[left_live], turn_live])
    )
    positions = np.zeros(len(left_in), np.int64)
    positions[edited] = live["position"][left_live[superseded]]
    fresh = ~edited
    positions[fresh] = _free_positions(
        group_in[left_in][fresh], turn_in[fresh], group_live, live["position"], group_live[left_live]
    )
    gone = left_live[~superseded]
    state = incoming[list(_CONTENT)]
    if not complete:
        given = np.zeros(0, IDENTITY) if reread is None else reread
        unread = ~np.isin(live[gone][list(_ID)], given)
        state = np.concatenate([state, live[gone[unread]][list(_CONTENT)]])
        gone = gone[~unread]
    return Changes(
        rows=incoming["row"][left_in],
        positions=positions,
        tombstones=live[gone],
        state=sorted_by(state, *_CONTENT),
        new=int(fresh.sum()),
        edited=int(edited.sum()),
        repeated=np.setdiff1d(read, incoming["row"], assume_unique=True),
    )


def _groups(incoming: np.ndarray, live: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A number for each identity, the same on both sides and in the identities' order."""
    both = np.concatenate([incoming[list(_ID)], live[list(_ID)]])
    order = np.lexsort((both["id1"], both["id0"]))
    numbers = np.empty(len(both), np.uint64)
    numbers[order] = np.cumsum(starts(both[order], _ID))
    return numbers[: len(incoming)], numbers[len(incoming) :]


def _matches(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of two arrays of shape (n, k), each without repetitions, are in both."""
    both = np.concatenate([left, right])
    order = np.lexsort(both.T[::-1])
    pair = (both[order][1:] == both[order][:-1]).all(axis=1)
    found = np.zeros(len(both), bool)
    found[order[1:][pair]] = True
    found[order[:-1][pair]] = True
    return found[: len(left)], found[len(left) :]


def _turns(groups: np.ndarray) -> np.ndarray:
    """The place of each within its group, from 0; groups are sorted."""
    if not len(groups):
        return np.zeros(0, np.uint64)
    first = np.flatnonzero(np.append(True, groups[1:] != groups[:-1]))
    sizes = np.diff(np.append(first, len(groups)))
    return (np.arange(len(groups)) - np.repeat(first, sizes)).astype(np.uint64)


def _free_positions(
    groups: np.ndarray,
    turns: np.ndarray,
    live_groups: np.ndarray,
    live_positions: np.ndarray,
    paired_groups: np.ndarray,
) -> np.ndarray:
    """Positions above all live ones of the same identity."""
    size = int(max((int(array.max(initial=0)) for array in (groups, live_groups)), default=0)) + 1
    above = np.zeros(size, np.int64)
    np.maximum.at(above, live_groups.astype(np.int64), live_positions.astype(np.int64) + 1)
    paired = np.bincount(paired_groups.astype(np.int64), minlength=size)
    own = groups.astype(np.int64)
    return above[own] + turns.astype(np.int64) - paired[own]
