"""How completions are sampled: one small settings group, shared by rollouts, evaluation and comparison of
policies."""

from pydantic import Field

from rlhf.settings import Settings


class GenerationSettings(Settings):
    """Sampling of completions."""

    max_new_tokens: int = Field(default=64, ge=1)
    """Longest completion, in tokens including EOS; longer ones are cut and count as truncated."""

    temperature: float = Field(default=1.0, ge=0.0)
    """Divides the logits before sampling; 0 takes the most probable token (greedy)."""

    top_k: int = Field(default=0, ge=0)
    """Sample from the k most probable tokens only; 0 = from all. PPO's rollouts need 0."""

    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Sample from the smallest set of tokens that holds this probability; 1 = from all. PPO's rollouts need
    1."""
