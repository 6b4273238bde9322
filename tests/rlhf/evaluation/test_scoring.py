"""Rewards are asked once per distinct answer, and what they give is checked."""

from collections.abc import Sequence

import numpy as np
import pytest

from rlhf.errors import EvaluationError
from rlhf.evaluation.scoring import prompt_clusters, score_answers
from rlhf.models.chat import Prompt


class Counting:
    """Scores by length and drifts a little with every answer, as batched floating point does."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        self.asked += len(completions)
        return [len(c) + 1e-3 * i for i, c in enumerate(completions)]


def test_equal_answers_to_equal_prompts_are_scored_once_and_tie_exactly() -> None:
    reward = Counting()
    chat: Prompt = [{"role": "user", "content": "hi"}]
    scores = score_answers("r", reward, ["p", chat, "p", chat, "q"], ["a", "a", "a", "a", "a"], list("01234"))
    assert reward.asked == 3
    assert scores[0] == scores[2]
    assert scores[1] == scores[3]
    assert len(set(scores.tolist())) == 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_named_with_its_reward_and_record(bad: float) -> None:
    def reward(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return [bad if c == "broken" else 0.0 for c in completions]

    with pytest.raises(EvaluationError, match=r"'gold' gave (nan|inf) .*'broken' of record 'r7' \(1 of 2"):
        score_answers("gold", reward, ["p", "q"], ["fine", "broken"], ["r6", "r7"])


def test_a_reward_that_gives_too_few_scores_is_refused() -> None:
    with pytest.raises(EvaluationError, match="1 scores for 2 answers"):
        score_answers("gold", lambda prompts, completions: [1.0], ["p", "q"], ["a", "b"], ["0", "1"])


def test_prompts_are_the_same_up_to_surrounding_whitespace() -> None:
    prompts: list[Prompt] = ["a", "b ", [{"role": "user", "content": "b"}], "a\n"]
    assert np.array_equal(prompt_clusters(prompts), [0, 1, 2, 0])
