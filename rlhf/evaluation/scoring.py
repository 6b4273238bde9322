"""Rewards applied to answers: each distinct answer is scored once, and every score is checked.

Scoring once is more than thrift: two models that give the same answer get the same score to the last bit, so
that a tie is a tie whatever the reward's batching does to floating point.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rlhf.errors import EvaluationError
from rlhf.feedback.rows import prompt_hash
from rlhf.models.chat import Prompt
from rlhf.models.reward_protocol import Reward

Scores = npt.NDArray[np.float64]


def prompt_key(prompt: Prompt) -> str:
    """Identity of a prompt, plain or chat, up to surrounding whitespace."""
    return prompt.strip() if isinstance(prompt, str) else prompt_hash(prompt)


def prompt_clusters(prompts: Sequence[Prompt]) -> npt.NDArray[np.intp]:
    """For each prompt the number of the distinct prompt that it is, counted from 0 in order of appearance."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(prompt_key(p), len(numbers)) for p in prompts], dtype=np.intp)


def score_answers(
    name: str,
    reward: Reward,
    prompts: Sequence[Prompt],
    completions: Sequence[str],
    record_ids: Sequence[str],
) -> Scores:
    """One score for each (prompt, completion) pair, in order.

    Args:
        name: what the reward is called; errors name it.
        record_ids: name of each pair's record, for errors.

    Raises:
        EvaluationError: a score is not a finite number, or there are not as many scores as answers.
    """
    keys = [(prompt_key(p), c) for p, c in zip(prompts, completions, strict=True)]
    first_of = {key: i for i, key in reversed(list(enumerate(keys)))}
    order = sorted(first_of.values())
    given = np.asarray(
        reward([prompts[i] for i in order], [completions[i] for i in order]), dtype=np.float64
    ).reshape(-1)
    if len(given) != len(order):
        raise EvaluationError(
            f"The reward {name!r} gave {len(given)} scores for {len(order)} answers; it must give one each."
        )
    bad = np.flatnonzero(~np.isfinite(given))
    if bad.size:
        position = order[bad[0]]
        raise EvaluationError(
            f"The reward {name!r} gave {given[bad[0]]} to the answer {completions[position][:80]!r} of "
            f"record {record_ids[position]!r} ({bad.size} of {len(order)} answers); repair it or drop it."
        )
    score_of = dict(zip(order, given, strict=True))
    return np.array([score_of[first_of[key]] for key in keys], dtype=np.float64)
