"""Over-optimisation is seen where it is, and only there."""

from collections.abc import Sequence
from typing import Any

import pytest

from rlhf.errors import EvaluationError
from rlhf.evaluation.frontier import FrontierPoint, find_overoptimisation, frontier_from_samples
from rlhf.models.chat import Prompt


def curve(proxy: Sequence[float], gold: Sequence[float], chosen: int = 0) -> list[FrontierPoint]:
    return [
        FrontierPoint(10 * i, float(i), {"proxy": p, "gold": g}, chosen=i == chosen)
        for i, (p, g) in enumerate(zip(proxy, gold, strict=True))
    ]


def test_a_reward_that_falls_while_the_proxy_rises_is_found_and_worded() -> None:
    (found,) = find_overoptimisation(curve([0.0, 1.48, 1.54], [1.3, 3.37, 3.14], chosen=1))
    assert (found.reward, found.peak_update, found.last_update, found.chosen_update) == ("gold", 10, 20, 10)
    assert "rose (1.48 → 1.54 at update 20) while gold fell (3.37 → 3.14)" in found.sentence
    assert "(update 10) does not lie beyond that peak" in found.sentence
    (late,) = find_overoptimisation(curve([0.0, 1.48, 1.54], [1.3, 3.37, 3.14], chosen=2))
    assert "(update 20) lies beyond that peak" in late.sentence


@pytest.mark.parametrize(
    ("proxy", "gold"),
    [
        ([0, 1, 2], [0, 1, 2]),  # both rise
        ([0, 2, 1], [0, 2, 1]),  # both fall: training broke down, the proxy was not exploited
        ([0, 1, 2], [0, 0, 0]),  # the other never moves
        ([1], [1]),
    ],
)
def test_other_curves_are_not_called_overoptimised(proxy: list[float], gold: list[float]) -> None:
    assert find_overoptimisation(curve(proxy, gold)) == ()


def test_points_are_taken_in_order_of_update_whatever_their_order() -> None:
    points = curve([0, 1, 2], [0, 2, 1])
    assert find_overoptimisation(points[::-1]) == find_overoptimisation(points) != ()


def rows() -> list[dict[str, Any]]:
    texts = {0: ["aa", "b"], 5: ["aaaa", "bbb"], 9: ["aaa", "bb"]}
    return [
        {
            "update": update,
            "prompt": f"p{i}",
            "completion": text,
            "proxy": update + i,
            "selection": None,
            "kl": update / 3,
            "chosen": update == 5,
        }
        for update, both in reversed(texts.items())
        for i, text in enumerate(both)
    ]


def length(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
    return [float(len(c)) for c in completions]


def test_kept_samples_become_points_with_further_rewards() -> None:
    points = frontier_from_samples(rows(), {"gold": length})
    assert [(p.update, p.chosen) for p in points] == [(0, False), (5, True), (9, False)]
    assert [dict(p.rewards) for p in points] == [
        {"proxy": 0.5, "gold": 1.5},
        {"proxy": 5.5, "gold": 3.5},
        {"proxy": 9.5, "gold": 2.5},
    ]
    assert [p.kl for p in points] == pytest.approx([0, 5 / 3, 3])


def test_another_reward_than_the_proxy_that_was_maximised_is_not_called_the_proxy() -> None:
    points = frontier_from_samples(rows(), {"proxy": length}, maximised="maximised")
    assert dict(points[0].rewards) == {"maximised": 0.5, "proxy": 1.5}
    (found,) = find_overoptimisation(points, "maximised")
    assert found.reward == "proxy"


def test_the_fall_is_measured_in_paired_standard_errors() -> None:
    kept = rows() + [
        {"update": u, "prompt": "p2", "completion": c, "proxy": u, "kl": 0, "chosen": u == 5}
        for u, c in ((0, ""), (5, "ccccc"), (9, "cc"))
    ]
    (found,) = find_overoptimisation(frontier_from_samples(kept, {"gold": length}))
    # falls of 1, 1 and 3: mean 5/3, standard deviation sqrt(4/3), error sqrt(4/9)
    assert found.standard_errors == pytest.approx((5 / 3) / (4 / 9) ** 0.5)
    assert "2.5 standard errors" in found.sentence


def test_two_chosen_updates_are_refused() -> None:
    kept = [{**row, "chosen": True} for row in rows()]
    with pytest.raises(EvaluationError, match=r"\[0, 5, 9\] are marked"):
        frontier_from_samples(kept, {})


def test_no_samples_give_no_points() -> None:
    assert frontier_from_samples([], {"gold": length}) == ()
