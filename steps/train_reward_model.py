"""Train one reward model on one fold of the comparisons, or of the ratings."""

from typing import Annotated, Literal

from datasets import DatasetDict
from zenml import ArtifactConfig, step

from materializers.model_directory import ModelDirectoryMaterializer
from ops.cache import cached_by_content
from ops.stage import stage
from rlhf.models.directory import ModelDirectory
from rlhf.training.settings import RewardModelSettings


@step(
    cache_policy=cached_by_content(__name__),
    output_materializers={"reward_model": ModelDirectoryMaterializer},
)
def train_reward_model(
    base_model: ModelDirectory,
    judgements: DatasetDict,
    settings: RewardModelSettings,
    role: Literal["proxy", "selection", "judge"],
    fold: int,
    seed: int,
) -> Annotated[ModelDirectory, ArtifactConfig(name="reward_model", tags=["model", "reward-model"])]:
    """A scalar reward model. ``proxy`` is what PPO maximises, ``selection`` only picks its checkpoints,
    ``judge`` only evaluates."""
    from rlhf.training.reward_model import train_reward_model as train

    with stage(f"reward_{role}", resumes=True) as run:
        return train(
            base_model.path,
            judgements,
            settings,
            run.output / "model",
            fold=fold,
            seed=seed,
            sink=run.sink,
            prefix=f"reward/{role}/",
            checkpoints=run.scratch,
        )
