"""What a reward is: the protocol that all of them share, and the one check of the scores they give."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from rlhf.errors import TrainingError
from rlhf.models.chat import Prompt, prompt_text

_EXCERPT = 80
"""Characters of a prompt that an error message shows."""


class Reward(Protocol):
    """Scores completions; higher is better. A reward sees text, never the policy's token ids, so it may have
    any tokenizer.

    It is asked for a whole batch at once and may compare its rows, as a penalty on repetition within the
    batch does. A reward whose scores depend on their own row alone (up to rounding) and that is costly enough
    to share says so by an attribute ``shardable`` that is true: of several processes each then scores rows of
    its own. All others are asked on one process only, so that an endpoint is not sent more requests at a time
    than its ``concurrency`` allows.

    A reward may have a string ``identity`` that names what its scores follow from; a run is resumed only
    under an equal one. Without it, the reward's place and source code are compared (``reward_identity``).
    """

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Sequence[float]:
        """One finite score for each (prompt, completion) pair, in order."""
        ...


def is_shardable(reward: Reward) -> bool:
    """Whether a batch may be scored in parts, on several processes."""
    return bool(getattr(reward, "shardable", False))


class NonFiniteScoreError(TrainingError):
    """A score is absent, not a number or not finite."""

    def __init__(self, subject: str, score: object, index: int, excerpt: str) -> None:
        super().__init__(
            f"{subject} gave {score!r} for sample {index} (prompt '{excerpt}'); every score must be a finite "
            "number."
        )
        self._parts = (subject, score, excerpt)
        self.index = index

    def at(self, index: int) -> "NonFiniteScoreError":
        """The same error for a sample's place in a larger batch."""
        subject, score, excerpt = self._parts
        return NonFiniteScoreError(subject, score, index, excerpt)


def checked_scores(scores: Iterable[Any], prompts: Sequence[Prompt], *, name: str) -> list[float]:
    """The scores as floats, if there is a finite one for every prompt.

    Args:
        scores: whatever a reward gave, numbers or not.
        name: of the reward, for the error.

    Raises:
        TrainingError: there are more or fewer scores than prompts.
        NonFiniteScoreError: one of them is absent, not a number or not finite; it is named with the beginning
            of its prompt.
    """
    subject = f"{name[:1].upper()}{name[1:]}"
    given = list(scores)
    if len(given) != len(prompts):
        raise TrainingError(
            f"{subject} gave {len(given)} scores for {len(prompts)} samples; return one for each."
        )
    values = [_number(score) for score in given]
    for index, value in enumerate(values):
        if value is None or not math.isfinite(value):
            excerpt = prompt_text(prompts[index])[:_EXCERPT]
            raise NonFiniteScoreError(subject, given[index], index, excerpt)
    return [value for value in values if value is not None]


def joined_text(prompt: Prompt, completion: str) -> str:
    """Prompt and completion as one plain text: as they are, or for chats one turn a line and the completion
    on the last."""
    if isinstance(prompt, str):
        return prompt + completion
    return f"{prompt_text(prompt)}\n{completion}"


def _number(score: Any) -> float | None:
    # float() would also read the text "1.5", which a broken function or server gives by mistake.
    if score is None or isinstance(score, str | bytes):
        return None
    try:
        return float(score)
    except (TypeError, ValueError):
        return None
