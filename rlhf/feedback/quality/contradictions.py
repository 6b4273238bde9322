"""Comparisons that no order of the responses can satisfy: a over b and b over a, or a longer circle, among
the settled comparisons of one prompt."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlhf.feedback.pairs import Pair


@dataclass(frozen=True)
class Contradictions:
    """Indices of the comparisons concerned."""

    circular: frozenset[int]
    """Comparisons on a circle of preferences."""
    equal: frozenset[int]
    """Comparisons whose sides differ in case or spacing only."""


def contradictory(pairs: Sequence[Pair]) -> Contradictions:
    """Find contradictions; responses that differ in case or spacing only are the same response.

    A comparison is on a circle exactly if both of its responses lie in one strongly connected component of
    the graph "is preferred to" of their prompt.
    """
    from scipy.sparse import coo_array  # a third of a second, and only preparing views needs it
    from scipy.sparse.csgraph import connected_components

    numbers: dict[tuple[str, str], int] = {}

    def node(prompt: str, response: str) -> int:
        return numbers.setdefault((prompt, " ".join(response.casefold().split())), len(numbers))

    edges = np.array(
        [(node(pair.prompt, pair.chosen), node(pair.prompt, pair.rejected)) for pair in pairs],
        dtype=np.int64,
    ).reshape(-1, 2)
    equal = edges[:, 0] == edges[:, 1]
    size = max(1, len(numbers))
    graph = coo_array((np.ones(len(edges), dtype=np.int8), (edges[:, 0], edges[:, 1])), shape=(size, size))
    _, component = connected_components(graph, directed=True, connection="strong")
    circular = (component[edges[:, 0]] == component[edges[:, 1]]) & ~equal
    return Contradictions(
        frozenset(np.flatnonzero(circular).tolist()), frozenset(np.flatnonzero(equal).tolist())
    )
