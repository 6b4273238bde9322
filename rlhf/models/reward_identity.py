"""What names a reward: the weights, code and settings that its scores follow from. A run resumes only under
the reward that it began with.
"""

from typing import Any

from rlhf.feedback.rows import canonical_json
from rlhf.models.reward_protocol import Reward
from rlhf.source_code import callable_identity


def reward_identity(reward: Reward) -> str:
    """The reward's own ``identity``; of one that has none, where it is defined and a digest of its code."""
    return getattr(reward, "identity", None) or callable_identity(reward)


def identity_of(reward: Reward, **scored_by: Any) -> str:
    """The ``identity`` of a reward class: its code, and the JSON-able values that its scores follow from."""
    return f"{callable_identity(reward)} {canonical_json(scored_by)}"
