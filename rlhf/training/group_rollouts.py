"""RLOO and GRPO: several completions of each prompt take the place of a critic. The losses are TRL's.

Prompts, sampling and scoring are this library's own, as in PPO: the same ids for the same text, the faster
decoding loop, any reward over text, and rollouts that only seed and update determine.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from rlhf.errors import DataError
from rlhf.feedback.rows import sha256_of
from rlhf.models.chat import Prompt, decode_completion, encode_prompt
from rlhf.models.generation import generate_from_ids, stop_token_ids
from rlhf.models.rewards import Reward, checked_scores
from rlhf.models.saving import quiet_transformers
from rlhf.tracking import MetricSink, NullSink
from rlhf.training.arguments import (
    Arguments,
    choose_attention,
    trained_model,
    training_arguments,
)
from rlhf.training.lora import lora_config
from rlhf.training.policy_result import PolicyResult
from rlhf.training.policy_run import OrderedTrainer, PolicyRun, load_start, trained_network
from rlhf.training.ppo.batching import derived_seed, prompts_of_update
from rlhf.training.ppo.prompts import encode_prompts
from rlhf.training.settings import TrainerSettings
from rlhf.training.settings_policy import RLOOSettings, RolloutSettings

_NAMES = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "entropy": "entropy",
    "score": "reward",
    "reward": "shaped_reward",
    "reward_std": "reward_std",
    "frac_reward_zero_std": "tied_groups",
    "clip_ratio/region_mean": "clip_fraction",
    "completions/mean_length": "response_length",
    "completions/clipped_ratio": "truncated_share",
}


def train_on_rollouts(
    policy: Path,
    reward: Reward,
    prompts: Sequence[Prompt],
    settings: RolloutSettings,
    *,
    output_dir: Path,
    dev_prompts: Sequence[Prompt] = (),
    selection: Reward | None = None,
    sink: MetricSink | None = None,
    resume: bool = False,
) -> PolicyResult:
    """Improve a policy against a reward by RLOO or GRPO, as the settings' class says.

    Args:
        policy: directory of the policy to start from; it is the reference of the KL as well.
        reward: what is maximised (the proxy).
        prompts: what is answered in training.
        output_dir: gets ``checkpoints/`` and, at the end, ``policy/`` (a full model, not sealed).
        dev_prompts: what every evaluation answers; without any, the last policy is delivered.
        selection: chooses the checkpoint; without it ``reward`` does, and ``criterion`` says so.
        sink: receives ``rloo/...`` or ``grpo/...`` after each update, and the same name with ``_eval`` after
            each evaluation.
        resume: continue from the newest checkpoint in ``output_dir``; start anew if there is none.

    Raises:
        DataError: nothing to train on, or a prompt that leaves no room for a completion.
        ModelError, ConfigError: a model that is absent, of the wrong kind, or does not fit the machine.
        TrainingError: a checkpoint of another run, a score or loss that is not finite.
    """
    base, model, tokenizer = load_start(policy, settings)
    encoded = encode_prompts(model, tokenizer, prompts, settings)
    dev = encode_prompts(model, tokenizer, dev_prompts, settings)
    if not encoded.ids:
        raise DataError("There is no prompt to train on; add prompts or raise max_prompt_tokens.")
    run = PolicyRun(
        settings,
        policy=base,
        tokenizer=tokenizer,
        dev=dev,
        reward=reward,
        selection=selection,
        output=output_dir,
        data={"prompts": sha256_of(list(prompts)), "dev prompts": sha256_of(list(dev_prompts))},
        updates=settings.updates,
        steps_per_update=settings.epochs * settings.mini_batches,
        sink=sink or NullSink(),
        renamed=_renamed,
        resume=resume,
    )
    given: dict[str, Any] = {
        "train_dataset": Dataset.from_list([{"prompt": prompt} for prompt in encoded.prompts]),
        "processing_class": tokenizer,
        "callbacks": [run.curves, run],
        "peft_config": lora_config(settings.lora, "policy") if settings.lora else None,
    }
    scored = _scored(reward, tokenizer, stop_token_ids(model, tokenizer), settings.missing_eos_penalty)
    longest = max(map(len, encoded.ids)) + settings.generation.max_new_tokens
    trainer: GroupRolloutTrainer
    if isinstance(settings, RLOOSettings):
        clip = settings.score_clip
        leave_one_out = _arguments(
            RLOOConfig,
            settings,
            output_dir / "trainer",
            model,
            normalize_advantages=settings.normalize_advantages,
            reward_clip_range=None if clip is None else (-clip, clip),
        )
        choose_attention(model, leave_one_out, longest)
        with quiet_transformers():  # the trainer loads the reference
            trainer = LeaveOneOutTrainer(model, scored, leave_one_out, **given)
    else:
        group_relative = _arguments(
            GRPOConfig,
            settings,
            output_dir / "trainer",
            model,
            scale_rewards=settings.scale_rewards,
            loss_type=settings.loss_mean,
        )
        choose_attention(model, group_relative, longest)
        with quiet_transformers():
            trainer = GroupRelativeTrainer(model, scored, group_relative, **given)
    passes = settings.epochs * _micro_batches(settings)
    trainer.order = [
        row
        for update in range(1, settings.updates + 1)
        for row in _groups(update, settings, len(encoded.ids)) * passes
    ]
    trainer.sampling = settings
    trainer.tokenizer = tokenizer
    return run.train(trainer)


class GroupRolloutTrainer(OrderedTrainer):
    """Prompts and completions by this library's means. To be mixed into TRL's trainers."""

    sampling: RolloutSettings
    tokenizer: PreTrainedTokenizerBase

    def _tokenize_prompts(self, prompts: list[Prompt]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [encode_prompt(self.tokenizer, prompt) for prompt in prompts], None, {}

    def _sample(self, prompt_ids: Sequence[Sequence[int]]) -> list[list[int]]:
        """Token ids of one completion for each row."""
        update = self.state.global_step // self.run.steps_per_update + 1
        stream = (update - 1) * self.accelerator.num_processes + self.accelerator.process_index + 1
        with torch.autocast("cuda", torch.bfloat16, enabled=bool(self.args.bf16) and not self.args.use_cpu):
            completions = generate_from_ids(
                trained_network(trained_model(self)),
                self.tokenizer,
                prompt_ids,
                self.sampling.generation,
                seed=derived_seed(self.sampling.seed, "rollouts", stream),
                batch_size=self.sampling.generation_batch_size,
            )
        return [list(c.token_ids) for c in completions]


class LeaveOneOutTrainer(GroupRolloutTrainer, RLOOTrainer):
    """RLOO on the library's rollouts."""

    def _generate_single_turn(self, prompt_ids: Any, images: Any, multimodal_fields: Any) -> list[list[int]]:
        return self._sample(prompt_ids)


class GroupRelativeTrainer(GroupRolloutTrainer, GRPOTrainer):
    """GRPO on the library's rollouts."""

    def _generate_single_turn(
        self,
        prompt_ids: Any,
        images: Any,
        multimodal_fields: Any,
        num_generations: int,
        has_tool_images: bool = False,
    ) -> tuple[list[list[int]], None]:
        return self._sample(prompt_ids), None


def _arguments(
    kind: type[Arguments], settings: RolloutSettings, work: Path, model: PreTrainedModel, **special: Any
) -> Arguments:
    mini_batch = settings.rollout_batch_size // settings.mini_batches
    steps = settings.epochs * settings.mini_batches
    trainer = TrainerSettings(
        optimizer=settings.optimizer,
        max_steps=settings.updates * steps,
        batch_size=mini_batch,
        micro_batch_size=settings.micro_batch_size,
        length_grouping=False,
        precision=settings.precision,
        gradient_checkpointing=settings.gradient_checkpointing,
        logging_steps=steps,
    )
    return training_arguments(
        kind,
        trainer,
        work=work,
        seed=settings.seed % 2**32,
        model=model,
        num_generations=settings.group_size,
        steps_per_generation=_micro_batches(settings),
        num_iterations=settings.epochs,
        max_completion_length=settings.generation.max_new_tokens,
        temperature=settings.generation.temperature,
        beta=settings.kl_coefficient,
        epsilon=settings.clip_range,
        epsilon_high=settings.clip_range_upper,
        disable_dropout=True,
        **special,
    )


def _micro_batches(settings: RolloutSettings) -> int:
    """Forward passes over the rollouts of an update, in each epoch."""
    mini_batch = settings.rollout_batch_size // settings.mini_batches
    return settings.rollout_batch_size // (settings.micro_batch_size or mini_batch)


def _groups(update: int, settings: RolloutSettings, prompts: int) -> list[int]:
    """Prompt of each rollout of an update, groups together."""
    chosen = prompts_of_update(update, settings.prompts_per_update, prompts, settings.seed)
    return [row for row in chosen for _ in range(settings.group_size)]


def _scored(
    reward: Reward,
    tokenizer: PreTrainedTokenizerBase,
    stop: frozenset[int],
    missing_eos_penalty: float | None,
) -> Callable[..., list[float | None]]:
    """A reward as TRL calls it."""

    def score(
        *,
        prompts: Sequence[Prompt],
        completion_ids: Sequence[Sequence[int]],
        log_metric: Callable[[str, float], None],
        **_: Any,
    ) -> list[float | None]:
        texts = [decode_completion(tokenizer, ids) for ids in completion_ids]
        scores = checked_scores(reward(prompts, texts), prompts, name="the reward")
        log_metric("score", sum(scores) / len(scores))
        penalty = missing_eos_penalty or 0.0
        return [
            score if ids[-1] in stop else score - penalty
            for score, ids in zip(scores, completion_ids, strict=True)
        ]

    return score


def _renamed(logs: Mapping[str, float]) -> dict[str, float]:
    """TRL's figures by the names that PPO's go by, and the KL per completion in place of per token."""
    figures = {_NAMES[name]: value for name, value in logs.items() if name in _NAMES}
    if "kl" in logs:
        figures["kl"] = logs["kl"] * logs["completions/mean_length"]
    return figures
