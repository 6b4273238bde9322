"""Policy training as a stage: PPO between sealed directories in, a sealed policy and its frontier out.

The algorithm is in ``rlhf.training.ppo``; here are only the roles of the models and the shape of the results.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from peft import PeftModel
from transformers import AutoConfig

from rlhf.errors import DataError
from rlhf.models.directory import ModelDirectory
from rlhf.models.loading import load_policy, load_tokenizer
from rlhf.models.reward_classifiers import RewardModelReward
from rlhf.models.saving import save_model
from rlhf.models.settings_rewards import RewardModelRewardSettings
from rlhf.tracking import MetricSink, RecordingSink
from rlhf.training.arguments import base_record
from rlhf.training.policy_result import PolicyResult
from rlhf.training.ppo.launch import launch_ppo
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.ppo.trainer import train_ppo


@dataclass(frozen=True)
class TrainedPolicy:
    """The chosen policy, and for every evaluated checkpoint its KL and the scored answers to the dev
    prompts."""

    policy: ModelDirectory
    frontier: Dataset


def train_policy(
    sft: Path,
    *,
    proxy: Path,
    selection: Path,
    prompts: DatasetDict,
    settings: PPOSettings,
    output_dir: Path,
    work_dir: Path,
    seed: int,
    sink: MetricSink,
) -> TrainedPolicy:
    """Maximise the proxy from the supervised policy; the selection model picks the checkpoint on dev prompts.

    Args:
        sft: starting point and reference.
        proxy: reward model that PPO maximises and that initialises the critic, if it reads the same tokens.
        selection: reward model that only picks checkpoints.
        prompts: ``prompt`` column; ``train`` is rolled out, ``dev`` is evaluated.
        output_dir: where the sealed policy is written; with ``settings.lora.merge`` off the adapter alone,
            whose base is ``sft``.
        work_dir: for checkpoints and the like.
        seed: added to the settings' own seed.

    Raises:
        DataError: no prompts to train on, or none to pick a checkpoint by.
        ConfigError: more processes than this machine has GPUs, or an engine that is not installed.
        TrainingError: training cannot go on; see :func:`train_ppo`.
    """
    for split in ("train", "dev"):
        if not len(prompts[split]):
            raise DataError(
                f"No prompts in the {split} split; add feedback or change the datasets' fractions."
            )
    settings = settings.model_copy(update={"seed": settings.seed + seed})
    recording = RecordingSink(sink)
    critic = proxy if settings.critic == "separate" and _reads_the_same_tokens(proxy, sft) else None
    train_prompts, dev_prompts = prompts["train"]["prompt"], prompts["dev"]["prompt"]
    if settings.processes > 1:
        result = launch_ppo(
            sft,
            RewardModelRewardSettings(path=proxy),
            train_prompts,
            settings,
            output_dir=work_dir / "ppo",
            work_dir=work_dir / "processes",
            critic=critic,
            dev_prompts=dev_prompts,
            selection=RewardModelRewardSettings(path=selection),
            sink=recording,
        )
    else:
        result = train_ppo(
            sft,
            RewardModelReward(proxy),
            train_prompts,
            settings,
            output_dir=work_dir / "ppo",
            critic=critic,
            dev_prompts=dev_prompts,
            selection=RewardModelReward(selection),
            sink=recording,
        )
    adapter = settings.lora is not None and not settings.lora.merge
    record = settings.model_dump(mode="json")
    policy = save_model(
        PeftModel.from_pretrained(load_policy(sft), str(result.policy_path))
        if adapter
        else load_policy(result.policy_path),
        load_tokenizer(result.policy_path),
        output_dir,
        kind="adapter" if adapter else "causal-lm",
        settings={**record, "base": base_record(sft)} if adapter else record,
        metrics={**result.metrics, "ppo/best_update": float(result.best_update)},
        curves=recording.curves,
    )
    return TrainedPolicy(policy, frontier_rows(result))


def _reads_the_same_tokens(proxy: Path, policy: Path) -> bool:
    """Whether the proxy can become the critic, which values the policy's own tokens: an encoder, or a
    reward model with another vocabulary, cannot, and the critic then starts from the policy."""
    ours, theirs = AutoConfig.from_pretrained(policy), AutoConfig.from_pretrained(proxy)
    same_family = ours.model_type == theirs.model_type
    return same_family and load_tokenizer(policy).get_vocab() == load_tokenizer(proxy).get_vocab()


def frontier_rows(result: PolicyResult) -> Dataset:
    """One row per dev sample of each evaluation, as ``rlhf.evaluation.frontier`` reads them."""
    rows: Sequence[Mapping[str, Any]] = [
        {
            "update": evaluation.update,
            "chosen": evaluation.update == result.best_update,
            "kl": evaluation.kl,
            "prompt": sample.prompt,
            "completion": sample.completion,
            "proxy": sample.reward,
            "selection": sample.selection_reward,
        }
        for evaluation in result.evaluations
        for sample in evaluation.samples
    ]
    return Dataset.from_list(list(rows))
