"""Policy training as a stage: one algorithm between sealed directories in, a sealed policy and its frontier
out.

The algorithms are elsewhere (``rlhf.training.ppo``, ``group_rollouts``, ``preference``); here are only the
roles of the models and the shape of the results, which are the same for all.
"""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from peft import PeftModel
from pydantic import TypeAdapter
from transformers import AutoConfig

from rlhf.errors import CheckpointError, DataError
from rlhf.models.directory import ModelDirectory, model_identity
from rlhf.models.loading import load_policy, load_tokenizer
from rlhf.models.reward_classifiers import RewardModelReward
from rlhf.models.rewards import build_reward
from rlhf.models.saving import save_model
from rlhf.models.settings_rewards import ProxyRewardSettings, RewardModelRewardSettings, RewardSettings
from rlhf.tracking import MetricSink, RecordingSink
from rlhf.training.arguments import base_record
from rlhf.training.group_rollouts import train_on_rollouts
from rlhf.training.policy_result import PolicyResult
from rlhf.training.ppo.launch import launch_ppo
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.ppo.trainer import train_ppo
from rlhf.training.preference import train_on_comparisons
from rlhf.training.settings_policy import DPOSettings, KTOSettings, PolicySettings, algorithm_of

logger = logging.getLogger(__name__)


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
    settings: PolicySettings,
    output_dir: Path,
    work_dir: Path,
    seed: int,
    sink: MetricSink,
    comparisons: DatasetDict | None = None,
    reward: RewardSettings | None = None,
    resume: bool = False,
) -> TrainedPolicy:
    """Improve the supervised policy by the algorithm whose settings are given; the selection model picks the
    checkpoint on dev prompts.

    Args:
        sft: starting point and reference.
        proxy: reward model that is maximised unless ``reward`` says otherwise. As the reward it also
            initialises PPO's critic, if it reads the same tokens.
        selection: reward model that only picks checkpoints.
        prompts: ``prompt`` column; ``train`` is rolled out, ``dev`` is evaluated.
        output_dir: where the sealed policy is written; with ``settings.lora.merge`` off the adapter alone,
            whose base is ``sft``.
        work_dir: for checkpoints and the like.
        seed: added to the settings' own seed.
        comparisons: what DPO and KTO learn from; the others do without.
        reward: what is maximised in place of the proxy alone, which may be part of it. DPO and KTO only
            report it of the dev answers.
        resume: continue from the newest checkpoint in ``work_dir``. One of other code, settings, models or
            data is removed with a warning, and training starts anew.

    Raises:
        DataError: nothing to train on, or no prompts to pick a checkpoint by.
        ConfigError, ModelError: something that the reward names is absent or of the wrong kind; more
            processes than this machine has GPUs, or an engine that is not installed.
        TrainingError: training cannot go on; see :func:`train_ppo`.
    """
    for split in ("train", "dev"):
        if not len(prompts[split]):
            raise DataError(
                f"No prompts in the {split} split; add feedback or change the datasets' fractions."
            )
    settings = settings.model_copy(update={"seed": settings.seed + seed})
    algorithm = algorithm_of(settings)
    recording = RecordingSink(sink)
    maximised = _with_place(reward or ProxyRewardSettings(), proxy)

    def trained(*, resume: bool) -> PolicyResult:
        return _train(
            sft, maximised, prompts, comparisons, settings, selection=selection, work_dir=work_dir,
            critic=_critic(settings, reward, proxy, sft) if isinstance(settings, PPOSettings) else None,
            resume=resume, sink=recording,
        )  # fmt: skip

    try:
        result = trained(resume=resume)
    except CheckpointError as error:
        logger.warning("Training starts anew: %s", error)
        shutil.rmtree(_training_folder(work_dir, settings))
        result = trained(resume=False)
    adapter = settings.lora is not None and not settings.lora.merge
    record: dict[str, Any] = {algorithm: settings.model_dump(mode="json")}
    if reward is not None:
        record["reward"] = _without_places(reward.model_dump(mode="json"))
    policy = save_model(
        PeftModel.from_pretrained(load_policy(sft), str(result.policy_path))
        if adapter
        else load_policy(result.policy_path),
        load_tokenizer(result.policy_path),
        output_dir,
        kind="adapter" if adapter else "causal-lm",
        settings={**record, "base": base_record(sft)} if adapter else record,
        metrics={**result.metrics, f"{algorithm}/best_update": float(result.best_update)},
        curves=recording.curves,
    )
    return TrainedPolicy(policy, frontier_rows(result))


def _train(
    sft: Path,
    reward: RewardSettings,
    prompts: DatasetDict,
    comparisons: DatasetDict | None,
    settings: PolicySettings,
    *,
    selection: Path,
    critic: Path | None,
    work_dir: Path,
    resume: bool,
    sink: MetricSink,
) -> PolicyResult:
    shared: dict[str, Any] = {
        "output_dir": _training_folder(work_dir, settings),
        "dev_prompts": prompts["dev"]["prompt"],
        "sink": sink,
        "resume": resume,
    }
    train_prompts = prompts["train"]["prompt"]
    if isinstance(settings, PPOSettings) and settings.processes > 1:
        return launch_ppo(
            sft,
            reward,
            train_prompts,
            settings,
            work_dir=work_dir / "processes",
            critic=critic,
            selection=RewardModelRewardSettings(path=selection),
            **shared,
        )
    shared |= {"selection": RewardModelReward(selection)}
    scored = build_reward(reward)
    if isinstance(settings, PPOSettings):
        return train_ppo(sft, scored, train_prompts, settings, critic=critic, **shared)
    if isinstance(settings, DPOSettings | KTOSettings):
        rows = Dataset.from_dict({}) if comparisons is None else comparisons["train"]
        return train_on_comparisons(sft, rows, settings, reward=scored, **shared)
    return train_on_rollouts(sft, scored, train_prompts, settings, **shared)


def _training_folder(work_dir: Path, settings: PolicySettings) -> Path:
    return work_dir / algorithm_of(settings)


def _reads_the_same_tokens(proxy: Path, policy: Path) -> bool:
    """Whether the proxy can become the critic, which values the policy's own tokens: an encoder, or a
    reward model with another vocabulary, cannot, and the critic then starts from the policy."""
    ours, theirs = AutoConfig.from_pretrained(policy), AutoConfig.from_pretrained(proxy)
    same_family = ours.model_type == theirs.model_type
    return same_family and load_tokenizer(policy).get_vocab() == load_tokenizer(proxy).get_vocab()


def _critic(settings: PPOSettings, reward: RewardSettings | None, proxy: Path, policy: Path) -> Path | None:
    """What PPO's critic starts from: the proxy if it is what is maximised, and can value the policy's
    tokens."""
    fits = settings.critic == "separate" and reward is None and _reads_the_same_tokens(proxy, policy)
    return proxy if fits else None


def _with_place(reward: RewardSettings, proxy: Path) -> RewardSettings:
    """The reward with the proxy's directory wherever ``type: proxy`` stands, as other processes need it."""

    def placed(node: Any) -> Any:
        if isinstance(node, dict):
            here = {"type": "reward_model", "path": str(proxy)} if node.get("type") == "proxy" else {}
            return {key: placed(value) for key, value in node.items()} | here
        return [placed(part) for part in node] if isinstance(node, list) else node

    found: RewardSettings = TypeAdapter(RewardSettings).validate_python(
        placed(reward.model_dump(mode="json"))
    )
    return found


def _without_places(reward: Any) -> Any:
    """A reward's settings with the content of each model in place of its directory, for the policy's
    digest."""
    if isinstance(reward, dict):
        return {
            key: model_identity(value) if key == "path" else _without_places(value)
            for key, value in reward.items()
        }
    return [_without_places(part) for part in reward] if isinstance(reward, list) else reward


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
