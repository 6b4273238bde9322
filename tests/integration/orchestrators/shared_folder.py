"""An artifact store that every pod reaches, as far as ZenML knows: a folder that all of them mount.

ZenML takes its own local store for one that other machines cannot see, and refuses it beside an orchestrator
of a cluster.
"""

from typing import ClassVar

from zenml.artifact_stores import (
    BaseArtifactStoreConfig,
    BaseArtifactStoreFlavor,
    LocalArtifactStore,
)


class SharedFolderConfig(BaseArtifactStoreConfig):
    """Where it is mounted."""

    SUPPORTED_SCHEMES: ClassVar[set[str]] = {"/"}

    @property
    def is_local(self) -> bool:
        return False


class SharedFolder(LocalArtifactStore):
    """Files as in a local store."""

    @property
    def path(self) -> str:
        return self.config.path

    @property
    def local_path(self) -> str | None:
        return None


class SharedFolderFlavor(BaseArtifactStoreFlavor):
    """What `zenml artifact-store flavor register` takes."""

    @property
    def name(self) -> str:
        return "shared_folder"

    @property
    def config_class(self) -> type[SharedFolderConfig]:
        return SharedFolderConfig

    @property
    def implementation_class(self) -> type[SharedFolder]:
        return SharedFolder
