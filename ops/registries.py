"""The policy's registry: MLflow aliases and ZenML model stages behind one :class:`RegistryStore`.

MLflow is the source of truth: it is read, and its alias moves last. The ZenML model control plane follows
with a version of the same name, linked to the artifact, so that both UIs say the same. A ZenML version that
an interrupted promotion did not get to is made good by the next call that needs it.
"""

import fcntl
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracking import MlflowClient
from zenml.client import Client
from zenml.enums import ModelStages
from zenml.model.utils import link_artifact_version_to_model_version
from zenml.models import ModelVersionResponse

from materializers.transfer import fetch_directory
from ops import environment
from ops.model_source import version_source
from ops.stage import tracking_uri
from ops.tracking import tracker_may_return
from rlhf.errors import ConfigError
from rlhf.models.directory import MANIFEST, open_directory
from rlhf.registry.champion import ChampionRef
from rlhf.registry.store import CANDIDATE, CHAMPION, Alias, Candidate, RegisteredVersion
from rlhf.retries import retried

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

POLICY = "policy"
DIGEST_TAG = "rlhf.digest"
PATH_TAG = "rlhf.path"
ARTIFACT_TAG = "zenml.artifact_version_id"
RUN_TAG = "mlflow.run_id"
PATIENCE_SECONDS = 300.0
"""How long a step waits for a registry that is away, before it fails."""
_STAGES: Mapping[Alias, ModelStages] = {
    CANDIDATE: ModelStages.STAGING,
    CHAMPION: ModelStages.PRODUCTION,
    # `previous` has no stage: ZenML archives the old champion when the new one takes its own.
}
# MLflow says "no such alias" with the code of a bad argument.
_ABSENT = {ErrorCode.Name(RESOURCE_DOES_NOT_EXIST), "INVALID_PARAMETER_VALUE"}


def policy_registry() -> "PolicyRegistry":
    """The registry of the active stack.

    Raises:
        ConfigError: the stack has no MLflow tracker to hold a registry.
    """
    uri = tracking_uri()
    if uri is None:
        raise ConfigError(
            "The active stack has no MLflow experiment tracker, which holds the model registry; activate a "
            "stack that has one, such as rlhf-local (`rlhf run` registers it)."
        )
    return PolicyRegistry(MlflowClient(tracking_uri=uri, registry_uri=uri))


def patiently(call: Callable[[], Result], *, doing: str) -> Result:
    """A call to the registry, repeated while its server is away."""
    return retried(call, passes=tracker_may_return, doing=doing, patience=PATIENCE_SECONDS)


def champion_directory(champion: ChampionRef) -> Path | None:
    """A local path with the champion's model, downloaded through the artifact store if it lies elsewhere.

    Raises:
        ModelError: the registry names a champion whose files are gone.
    """
    if not champion.exists or champion.path is None:
        return None
    if "://" not in champion.path:
        return open_directory(Path(champion.path)).path
    cache = environment.home() / "cache" / "models" / str(champion.digest)
    store = Client().active_stack.artifact_store
    return open_directory(fetch_directory(store, champion.path, cache, last=MANIFEST)).path


@dataclass(frozen=True)
class PolicyRegistry:
    """Registered versions of the policy. See :class:`rlhf.registry.store.RegistryStore` for the verbs."""

    mlflow: MlflowClient
    name: str = POLICY

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Exclusive among the processes of this machine; across machines, promotion re-reads the champion."""
        file = environment.home() / "registry.lock"
        with file.open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def champion(self) -> RegisteredVersion | None:
        return self.by_alias(CHAMPION)

    def by_alias(self, alias: Alias) -> RegisteredVersion | None:
        """The version under an alias."""
        try:
            return _registered(self.mlflow.get_model_version_by_alias(self.name, alias))
        except MlflowException as error:
            if error.error_code in _ABSENT:
                return None
            raise

    def by_version(self, version: str) -> RegisteredVersion | None:
        """The version with a number."""
        try:
            return _registered(self.mlflow.get_model_version(self.name, version))
        except MlflowException as error:
            if error.error_code in _ABSENT:
                return None
            raise

    def find(self, digest: str) -> RegisteredVersion | None:
        found = self.mlflow.search_model_versions(
            f"name = '{self.name}' and tags.`{DIGEST_TAG}` = '{digest}'"
        )
        return _registered(found[0]) if found else None

    def register(self, candidate: Candidate) -> RegisteredVersion:
        self._ensure_model()
        run_id = candidate.tags.get(RUN_TAG)
        version = self.mlflow.create_model_version(
            self.name,
            source=version_source(self.mlflow, candidate.path, run_id, candidate.digest),
            run_id=run_id,
            tags={**candidate.tags, DIGEST_TAG: candidate.digest, PATH_TAG: candidate.path},
            description=candidate.description,
            await_creation_for=0,
        )
        self.zenml_version(version)
        return _registered(version)

    def set_alias(self, alias: Alias, version: str) -> None:
        counterpart = self.zenml_version(self.mlflow.get_model_version(self.name, version))
        stage = _STAGES.get(alias)
        if stage is not None and counterpart.stage != stage:
            Client().update_model_version(counterpart.model.id, counterpart.id, stage=stage, force=True)
        self.mlflow.set_registered_model_alias(self.name, alias, version)

    def set_tags(self, version: str, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self.mlflow.set_model_version_tag(self.name, version, key, value)

    def _ensure_model(self) -> None:
        try:
            self.mlflow.create_registered_model(
                self.name,
                description="Policies trained from human feedback; aliases: candidate, champion, previous.",
            )
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise

    def zenml_version(self, version: ModelVersion) -> ModelVersionResponse:
        """The ZenML counterpart of an MLflow version, made and linked to its artifact if it is not there."""
        client = Client()
        # By an exact filter and then by id: ZenML's lookups by name also take a longer name's beginning.
        [model] = client.list_models(name=self.name).items or [
            client.create_model(self.name, description="Policies trained from human feedback.", tags=["rlhf"])
        ]
        digest = version.tags.get(DIGEST_TAG)
        name = f"v{version.version}"
        try:
            found = client.get_model_version(model.id, name)
            if found.description == digest:
                return found
            # MLflow counts from 1 again after its database was reset, and ZenML still has the old version 1.
            name = f"v{version.version}-{(digest or version.creation_timestamp)!s:.12}"
            return client.get_model_version(model.id, name)
        except KeyError:
            made = client.create_model_version(model.id, name=name, description=digest)
        if artifact := version.tags.get(ARTIFACT_TAG):
            link_artifact_version_to_model_version(client.get_artifact_version(UUID(artifact)), made)
        return made


def _registered(version: ModelVersion) -> RegisteredVersion:
    path = version.tags.get(PATH_TAG) or version.source
    return RegisteredVersion(str(version.version), version.tags.get(DIGEST_TAG, ""), path)
