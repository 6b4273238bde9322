"""ZenML's model control plane, brought to what the registry says: a version of the same name for each, linked
to its artifact, with the stage that its alias stands for. So both UIs say the same."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from zenml.client import Client
from zenml.enums import ModelStages
from zenml.models import ModelResponse, ModelVersionResponse
from zenml.utils.pagination_utils import depaginate

from ops.zenml_process import MirroredVersion
from rlhf.registry.store import CANDIDATE, CHAMPION, PREVIOUS

_HELD = (ModelStages.PRODUCTION, ModelStages.STAGING)


def mirror(
    name: str, description: str, versions: Sequence[MirroredVersion], aliases: Mapping[str, str]
) -> None:
    """Make ZenML's versions and stages those of the registry, from whatever state an interruption left.

    Args:
        versions: all that the registry has under this model name.
        aliases: alias → version of this model name.
    """
    client = Client()
    # By an exact filter and then by id: ZenML's lookups by name also take a longer name's beginning.
    found = client.list_models(name=name).items
    model = found[0] if found else client.create_model(name, description=description, tags=["rlhf"])
    known = {
        v.name: v for v in depaginate(client.list_model_versions, model=model.id, hydrate=True, size=500)
    }
    wanted = {}
    for version in versions:
        twin = _counterpart(model, version, known)
        known[twin.name] = twin
        wanted[twin.name] = stage_of(version.version, aliases)
    # Who takes a stage comes first: ZenML has one holder of each, and archives the old one by itself.
    stages = {twin: known[twin].stage for twin in wanted}
    for twin, stage in sorted(wanted.items(), key=lambda item: item[1] not in _HELD):
        held = stages[twin] in _HELD
        target = stage or (ModelStages.ARCHIVED if held else None)
        if target is None or stages[twin] == target:
            continue
        client.update_model_version(model.id, known[twin].id, stage=target, force=True)
        if target in _HELD:
            stages |= {other: ModelStages.ARCHIVED for other, was in stages.items() if was == target}
        stages[twin] = target


def stage_of(version: str, aliases: Mapping[str, str]) -> ModelStages | None:
    """The stage that an alias stands for; one version may have several aliases, and has one stage."""
    if aliases.get(CHAMPION) == version:
        return ModelStages.PRODUCTION
    if aliases.get(PREVIOUS) == version:
        return ModelStages.ARCHIVED
    if aliases.get(CANDIDATE) == version:
        return ModelStages.STAGING
    return None


def _counterpart(
    model: ModelResponse, version: MirroredVersion, known: Mapping[str, ModelVersionResponse]
) -> ModelVersionResponse:
    """ZenML's version of the same content, made or finished if need be. Its description, the content digest,
    is written last: one without it was interrupted."""
    # MLflow counts from 1 again after its database was reset, and ZenML still has the old version 1.
    fallback = f"v{version.version}-{(version.digest or version.created)!s:.12}"
    client = Client()
    for name in (f"v{version.version}", fallback):
        twin = known.get(name)
        if twin is not None and twin.description == version.digest:
            return twin
        if twin is None or not twin.description:
            made = twin or client.create_model_version(model.id, name=name)
            _link(version, made)
            return client.update_model_version(model.id, made.id, description=version.digest)
    return known[fallback]


def _link(version: MirroredVersion, twin: ModelVersionResponse) -> None:
    if version.artifact is None:
        return
    from zenml.model.utils import link_artifact_version_to_model_version

    try:
        found = Client().get_artifact_version(UUID(version.artifact))
    except KeyError:  # pruned
        return
    link_artifact_version_to_model_version(found, twin)
