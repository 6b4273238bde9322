"""What a PPO run needs of its settings and surroundings before anything is loaded."""

from pathlib import Path

from rlhf.errors import ConfigError, DataError, TrainingError
from rlhf.training.ppo.checkpoint import has_checkpoint
from rlhf.training.ppo.settings import PPOSettings


def require_runnable(
    settings: PPOSettings,
    *,
    checkpoints: Path,
    resume: bool,
    from_adapter: bool,
    demonstrations: bool,
    processes: int,
) -> None:
    """Refuse what cannot become a run.

    Args:
        from_adapter: whether the policy to start from is an unmerged adapter.
        demonstrations: whether there are any for PPO-ptx.
        processes: how many share the work.

    Raises:
        TrainingError: there are checkpoints that are not to be resumed.
        ConfigError: more processes than a mini-batch has completions, or an adapter upon an adapter.
        DataError: PPO-ptx without demonstrations.
    """
    if not resume and has_checkpoint(checkpoints):
        raise TrainingError(
            f"{checkpoints} holds checkpoints of an earlier run; resume it, or choose an empty directory."
        )
    if settings.mini_batches * processes > settings.rollout_batch_size:
        raise ConfigError(
            f"{processes} processes are too many: a mini-batch has "
            f"{settings.rollout_batch_size // settings.mini_batches} completions; raise "
            "ppo.rollout_batch_size or start fewer."
        )
    if from_adapter and settings.lora is not None and not settings.lora.merge:
        raise ConfigError(
            "ppo.lora.merge: the policy is an unmerged adapter, and an adapter upon an adapter would fit no "
            "stored model; set it to true, or merge the policy first."
        )
    if settings.ptx_coefficient > 0 and not demonstrations:
        raise DataError("ppo.ptx_coefficient needs demonstrations; give some or set it to 0.")
