"""Learning, end to end, on a task with an exact optimum."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).parents[4] / "benchmarks/random_walks.py"


@pytest.fixture(scope="module")
def random_walks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("random_walks", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["random_walks"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_only_a_shortest_walk_is_optimal(random_walks: ModuleType) -> None:
    graph = random_walks.Graph.random(0)
    start, walk = max(range(1, random_walks.NODES), key=lambda i: graph.shortest[i]), []
    node = start
    while node != random_walks.GOAL:
        node = min((int(n) for n in graph.edges[node].nonzero()[0]), key=lambda n: graph.shortest[n])
        walk.append(random_walks.LETTERS[node])
    letter = random_walks.LETTERS[start]
    assert graph.optimality(letter, " ".join(walk)) == 1.0
    assert graph.optimality(letter, " ".join(walk[:-1])) == 0.0
    assert graph.optimality(letter, "a") == 0.0  # further than one edge from the goal


def test_ppo_finds_shorter_walks_than_it_was_shown(random_walks: ModuleType, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        result = random_walks.learn_random_walks(tmp_path, seed=0, updates=12)
    finally:
        torch.set_num_threads(before)
    assert result.evaluations[0].reward < 0.5
    assert max(e.reward for e in result.evaluations) > 0.8
