"""Improve the supervised policy by PPO, RLOO, GRPO, DPO or KTO."""

from typing import Annotated

from datasets import Dataset, DatasetDict
from zenml import ArtifactConfig, step

from materializers.dataset import DatasetMaterializer
from materializers.model_directory import ModelDirectoryMaterializer
from ops.cache import cached_by_content
from ops.stage import stage
from rlhf.models.directory import ModelDirectory
from rlhf.models.settings_rewards import RewardSettings
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.settings_policy import (
    DPOSettings,
    GRPOSettings,
    KTOSettings,
    RLOOSettings,
    algorithm_of,
)


@step(
    cache_policy=cached_by_content(__name__),
    output_materializers={"policy": ModelDirectoryMaterializer, "frontier": DatasetMaterializer},
)
def train_policy(
    sft_policy: ModelDirectory,
    proxy: ModelDirectory,
    selection: ModelDirectory,
    prompts: DatasetDict,
    comparisons: DatasetDict,
    seed: int,
    reward: RewardSettings | None = None,
    reward_content: str = "",
    ppo: PPOSettings | None = None,
    rloo: RLOOSettings | None = None,
    grpo: GRPOSettings | None = None,
    dpo: DPOSettings | None = None,
    kto: KTOSettings | None = None,
) -> tuple[
    Annotated[ModelDirectory, ArtifactConfig(name="policy", tags=["model", "policy"])],
    Annotated[Dataset, ArtifactConfig(name="frontier")],
]:
    """The policy at the checkpoint that the selection model chose, and every checkpoint's samples and KL.

    ``reward_content`` is for the cache key: models and code that ``reward`` names, by content
    (:func:`ops.cache.content_of`). One of the five settings is given, which chooses the algorithm; without a
    ``reward`` the proxy is maximised. They are five parameters because ZenML stores only the fields
    that were set: of a union it could not tell afterwards which class they were.
    """
    from rlhf.training.policy import train_policy as train

    [settings] = [given for given in (ppo, rloo, grpo, dpo, kto) if given is not None]
    with stage(algorithm_of(settings), resumes=True) as run:
        result = train(
            sft_policy.path,
            proxy=proxy.path,
            selection=selection.path,
            prompts=prompts,
            comparisons=comparisons,
            settings=settings,
            reward=reward,
            output_dir=run.output / "model",
            work_dir=run.scratch,
            seed=seed,
            sink=run.sink,
            resume=True,
        )
        return result.policy, result.frontier
