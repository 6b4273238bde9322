"""Fine-tune the base model on demonstrations."""

from typing import Annotated

from datasets import DatasetDict
from zenml import ArtifactConfig, step

from materializers.model_directory import ModelDirectoryMaterializer
from ops.cache import cached_by_content
from ops.stage import stage
from rlhf.models.directory import ModelDirectory
from rlhf.training.settings import SFTSettings


@step(
    cache_policy=cached_by_content(__name__), output_materializers={"sft_policy": ModelDirectoryMaterializer}
)
def train_sft(
    base_model: ModelDirectory, demonstrations: DatasetDict, settings: SFTSettings, seed: int
) -> Annotated[ModelDirectory, ArtifactConfig(name="sft_policy", tags=["model", "policy"])]:
    """The supervised policy: PPO's starting point and its reference."""
    from rlhf.training.sft import train_sft as train

    with stage("sft", resumes=True) as run:
        return train(
            base_model.path,
            demonstrations,
            settings,
            run.output / "model",
            sink=run.sink,
            seed=seed,
            checkpoints=run.scratch,
        )
