"""What a run must share with a checkpoint to continue it: code, settings, models, rewards and data, each by
name.

A difference in any of them would make another run of it, so the checkpoint is refused and the name is told.
"""

from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rlhf.feedback.rows import sha256_of
from rlhf.models.chat import Prompt
from rlhf.models.directory import model_identity
from rlhf.models.reward_identity import reward_identity
from rlhf.models.reward_protocol import Reward
from rlhf.source_code import code_digest
from rlhf.training.ppo.settings import PPOSettings

_ENTRY = "rlhf.training.ppo.trainer"
_LIBRARIES = ("torch", "transformers", "peft", "numpy")
_NOT_IDENTITY = {"checkpoint_every", "keep_checkpoints", "processes", "sharding"}
"""Settings that may differ between a run and its continuation."""


def run_identity(
    settings: PPOSettings,
    *,
    policy: Path | str,
    policy_base: Path | str | None,
    critic: Path | None,
    reward: Reward,
    selection: Reward | None,
    prompts: Sequence[Prompt],
    dev_prompts: Sequence[Prompt],
    demonstrations: Sequence[tuple[Prompt, str]],
) -> dict[str, Any]:
    """JSON-able values by the names that an error tells; models and data by digest."""
    return {
        **{f"ppo.{k}": v for k, v in settings.model_dump(mode="json").items() if k not in _NOT_IDENTITY},
        "policy": model_identity(policy),
        "policy base": None if policy_base is None else model_identity(policy_base),
        "critic": None if critic is None else model_identity(critic),
        **reward_identities(reward, selection),
        "prompts": sha256_of(list(prompts)),
        "dev prompts": sha256_of(list(dev_prompts)),
        "demonstrations": sha256_of(list(demonstrations)),
        **code_identity(),
    }


def reward_identities(reward: Reward | None, selection: Reward | None) -> dict[str, str | None]:
    """What names the maximised reward and the one that chooses."""
    return {
        "reward": None if reward is None else reward_identity(reward),
        "selection reward": None if selection is None else reward_identity(selection),
    }


@cache
def code_identity(*entries: str) -> dict[str, str]:
    """The version of each library that computes, and ``code``: a digest of all modules of this package that
    the modules ``entries`` (by default PPO's trainer) reach by imports.

    Syntax trees are hashed, so layout and comments do not count.
    """
    digest = code_digest(*(entries or (_ENTRY,)))
    return {"code": digest, **{f"{name} version": version(name) for name in _LIBRARIES}}
