"""Ask the registry who the champion is, at the start of the run."""

from typing import Annotated

from zenml import ArtifactConfig, step

from materializers.value import ValueMaterializer
from ops.registries import patiently, policy_registry
from rlhf.registry.champion import ChampionRef


# Never cached, and an input of evaluation and promotion: no cached verdict can speak of an older champion.
@step(enable_cache=False, output_materializers={"champion": ValueMaterializer})
def resolve_champion() -> Annotated[ChampionRef, ArtifactConfig(name="champion")]:
    """The champion's version, digest and place; all empty when there is none yet."""
    registered = patiently(lambda: policy_registry().champion(), doing="Asking for the champion")
    return registered.as_champion() if registered else ChampionRef()
