"""PPO on several processes of this machine."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from rlhf.errors import ConfigError
from rlhf.models.chat import Prompt
from rlhf.models.rewards import build_reward
from rlhf.models.settings_rewards import RewardSettings
from rlhf.tracking import MetricSink, RecordingSink
from rlhf.training.launch import launch
from rlhf.training.ppo.result import PPOResult
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.ppo.trainer import train_ppo
from rlhf.training.worker import Job


class PPOJob(Job):
    """The arguments of ``train_ppo``; rewards as settings, because every worker builds its own."""

    NAME: ClassVar[str] = "PPO"
    SECTION: ClassVar[str] = "ppo"
    MEMORY: ClassVar[str] = "micro_batch_tokens"

    policy: Path
    """Directory of the policy to start from."""
    policy_base: Path | None
    """The model that ``policy`` was trained on, if that is an unmerged adapter."""
    critic: Path | None
    """Directory of the reward model that a separate critic starts from."""
    reward: RewardSettings
    """What is maximised."""
    selection: RewardSettings | None
    """What chooses the checkpoint."""
    proxy: Path | None
    """Directory of the reward model that ``type: proxy`` means."""
    prompts: list[Any]
    """Prompts of training, text or chat messages."""
    dev_prompts: list[Any]
    """Prompts of the evaluations."""
    demonstrations: list[tuple[Any, str]]
    """(prompt, completion) pairs for PPO-ptx."""
    settings: PPOSettings
    """Of the run."""
    output_dir: Path
    """Gets checkpoints and the delivered policy."""
    resume: bool
    """Continue from the newest checkpoint."""

    def run(self, sink: MetricSink | None) -> dict[str, Any]:
        """The result of PPO as JSON."""
        result = train_ppo(
            self.policy,
            build_reward(self.reward, proxy=self.proxy),
            self.prompts,
            self.settings,
            output_dir=self.output_dir,
            policy_base=self.policy_base,
            critic=self.critic,
            dev_prompts=self.dev_prompts,
            selection=None if self.selection is None else build_reward(self.selection, proxy=self.proxy),
            demonstrations=self.demonstrations,
            sink=None if sink is None else RecordingSink(sink),
            resume=self.resume,
        )
        return result.to_json()


def launch_ppo(
    policy: Path,
    reward: RewardSettings,
    prompts: Sequence[Prompt],
    settings: PPOSettings,
    *,
    output_dir: Path,
    work_dir: Path,
    policy_base: Path | None = None,
    critic: Path | None = None,
    dev_prompts: Sequence[Prompt] = (),
    selection: RewardSettings | None = None,
    proxy: Path | None = None,
    demonstrations: Sequence[tuple[Prompt, str]] = (),
    sink: MetricSink | None = None,
    resume: bool = False,
) -> PPOResult:
    """:func:`~rlhf.training.ppo.trainer.train_ppo` on ``settings.processes`` processes.

    Args:
        reward, selection: as settings, because every worker builds its own.
        work_dir: each launch makes a directory of its own in it, with the workers' logs.
        proxy: directory of the reward model that ``type: proxy`` means in the rewards.

    Raises:
        ConfigError: this machine has GPUs, but fewer than processes, or no loopback interface; or the output
            would lie inside of ``work_dir``.
        InterruptedRunError: a stop was requested, and a checkpoint has been written.
        TrainingError: a worker failed; with its message, or the last lines of its log.
    """
    if output_dir.resolve().is_relative_to(work_dir.resolve()):
        raise ConfigError(
            f"The output directory {output_dir} lies in the scratch directory {work_dir}, which may be "
            "cleared at any time; choose another."
        )
    job = PPOJob(
        policy=policy,
        policy_base=policy_base,
        critic=critic,
        reward=reward,
        selection=selection,
        proxy=proxy,
        prompts=list(prompts),
        dev_prompts=list(dev_prompts),
        demonstrations=list(demonstrations),
        settings=settings,
        output_dir=output_dir,
        resume=resume,
    )
    return PPOResult.from_json(launch(job, processes=settings.processes, work_dir=work_dir, sink=sink))
