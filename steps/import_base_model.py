"""Bring an existing model, local or from the hub, into the artifact store, so that a run names its exact
weights."""

from typing import Annotated

from zenml import ArtifactConfig, get_step_context, step

from materializers.model_directory import ModelDirectoryMaterializer
from ops.stage import stage
from rlhf.models.directory import ModelDirectory
from rlhf.training.settings import BaseModelSettings


# Never cached: a local directory may have changed, and a branch on the hub may have moved. The content hash
# decides whether the training behind it runs again.
@step(enable_cache=False, output_materializers={"base_model": ModelDirectoryMaterializer})
def import_base_model(
    settings: BaseModelSettings,
) -> Annotated[ModelDirectory, ArtifactConfig(name="base_model", tags=["model"])]:
    """A sealed copy of the model's safetensors, configuration and tokenizer."""
    from rlhf.models.loading import import_base_model as copy

    with stage(get_step_context().step_run.name, settings) as run:
        return copy(settings, run.output / "model")
