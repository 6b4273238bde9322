"""Make a base model from text alone: a tokenizer and a small language model."""

from typing import Annotated

from datasets import DatasetDict
from zenml import ArtifactConfig, step

from materializers.model_directory import ModelDirectoryMaterializer
from ops.cache import cached_by_content
from ops.stage import stage
from rlhf.models.directory import ModelDirectory
from rlhf.training.settings import PretrainSettings


@step(
    cache_policy=cached_by_content(__name__), output_materializers={"base_model": ModelDirectoryMaterializer}
)
def pretrain(
    text: DatasetDict, settings: PretrainSettings, seed: int
) -> Annotated[ModelDirectory, ArtifactConfig(name="base_model", tags=["model"])]:
    """A byte-level BPE tokenizer and a Llama trained on the text from random weights."""
    from rlhf.training.pretrain import pretrain as train

    with stage("pretrain", resumes=True) as run:
        return train(text, settings, run.output / "model", sink=run.sink, seed=seed, checkpoints=run.scratch)
