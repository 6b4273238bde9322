"""The check that every reward's scores pass."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from rlhf.errors import TrainingError
from rlhf.feedback.rows import Message
from rlhf.models.chat import Prompt
from rlhf.models.reward_protocol import checked_scores

PROMPTS: list[Prompt] = ["Where is my lamp?", [Message(role="user", content="Can you help me?")]]


@pytest.mark.parametrize("score", [math.nan, math.inf, None, "1.5", b"1", [1.0, 2.0], {}])
def test_a_score_that_is_no_finite_number_names_its_sample(score: Any) -> None:
    with pytest.raises(TrainingError, match=r"for sample 1 \(prompt 'user: Can you help me\?'\)") as caught:
        checked_scores([0.5, score], PROMPTS, name="the judge")
    assert str(caught.value).startswith(f"The judge gave {score!r}")


@pytest.mark.parametrize("scores", [[], [1.0], [1.0, 2.0, 3.0]])
def test_another_number_of_scores_is_refused_with_both_numbers(scores: list[float]) -> None:
    with pytest.raises(TrainingError, match=f"The judge gave {len(scores)} scores for 2 samples"):
        checked_scores(scores, PROMPTS, name="the judge")


def test_numbers_of_any_library_become_floats() -> None:
    assert checked_scores(iter([np.float32(0.5), 1]), PROMPTS, name="x") == [0.5, 1.0]
    assert checked_scores(torch.tensor([0.25, -2.0]), PROMPTS, name="x") == [0.25, -2.0]
