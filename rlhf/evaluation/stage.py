"""Evaluation as a stage: sealed directories, a dataset of prompts and PPO's frontier in, the report out.

What is measured is decided in ``rlhf.evaluation.policy``; here the rewards get their names and the dev
samples of training are scored by the rewards that training did not have.
"""

from pathlib import Path

from datasets import Dataset

from rlhf.errors import DataError
from rlhf.evaluation.frontier import frontier_from_samples
from rlhf.evaluation.policy import PolicyEvaluationResult, evaluate_policy
from rlhf.evaluation.settings import EvaluationSettings
from rlhf.models.rewards import FunctionReward, Reward, RewardModelReward
from rlhf.tracking import MetricSink


def evaluate(
    *,
    policy: Path,
    sft: Path,
    champion: Path | None,
    proxy: Path,
    selection: Path,
    prompts: Dataset,
    frontier: Dataset,
    settings: EvaluationSettings,
    seed: int,
    sink: MetricSink,
) -> PolicyEvaluationResult:
    """Compare the models on held-out prompts by proxy, selection model and the settings' further rewards.

    Raises:
        DataError: no held-out prompts.
        EvaluationError: see :func:`evaluate_policy`.
    """
    if not len(prompts):
        raise DataError("No prompts in the test split; add feedback or raise datasets.test_fraction.")
    further: dict[str, Reward] = {name: FunctionReward(source) for name, source in settings.rewards.items()}
    rewards: dict[str, Reward] = {
        "proxy": RewardModelReward(proxy),
        "selection": RewardModelReward(selection),
        **further,
    }
    chosen = prompts.select(range(min(len(prompts), settings.max_prompts or len(prompts))))
    return evaluate_policy(
        policy,
        sft,
        chosen["prompt"],
        rewards,
        settings.model_copy(update={"seed": settings.seed + seed}),
        champion=champion,
        frontier=frontier_from_samples(frontier, further),
        record_ids=chosen["record_id"],
        sink=sink,
    )
