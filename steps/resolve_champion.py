"""Ask the registry who the champion is, at the start of the run."""

from typing import Annotated

from zenml import ArtifactConfig, step

from materializers.value import ValueMaterializer
from ops.approval import close_expired
from ops.registries import patiently, policy_registry
from rlhf.registry.champion import ChampionRef
from rlhf.registry.transaction import settled_champion


# Never cached, and an input of evaluation and promotion: no cached verdict can speak of an older champion.
@step(enable_cache=False, output_materializers={"champion": ValueMaterializer})
def resolve_champion() -> Annotated[ChampionRef, ArtifactConfig(name="champion")]:
    """The champion's version, digest and place; all empty when there is none yet.

    Approvals that nobody gave in time are closed here, so that the registry says so before it is asked.
    """
    registry = policy_registry()
    registered = patiently(lambda: settled_champion(registry), doing="Asking for the champion")
    close_expired()
    return registered.as_champion() if registered else ChampionRef()
