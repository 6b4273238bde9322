"""The registry of policies and reward models in MLflow: the store behind :mod:`rlhf.registry.transaction`.

MLflow is the source of truth, and holds the journal of an open move as well, so that every machine sees it:
a registered model of a name that only one process can create. ZenML's model control plane follows.
"""

import fcntl
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracking import MlflowClient

from ops import environment
from ops.tags import ARTIFACT_TAG, DIGEST_TAG, MLFLOW_RUN_TAG, PATH_TAG
from ops.tracking import tracker_may_return
from ops.zenml_process import MirroredVersion, ZenMLProcess, mirror, registry_uri
from rlhf.errors import ConfigError, ModelError
from rlhf.models.directory import MANIFEST, open_directory
from rlhf.registry.champion import ChampionRef
from rlhf.registry.journal import Journal
from rlhf.registry.store import (
    CHAMPION,
    POLICY,
    REWARD_MODEL,
    Alias,
    Candidate,
    ModelName,
    RegisteredVersion,
    at,
)
from rlhf.retries import retried

Result = TypeVar("Result")

PATIENCE_SECONDS = 300.0
"""How long a step waits for a registry that is away, before it fails."""

OPEN_MOVE = "rlhf-open-move"
_JOURNAL_TAG = "rlhf.journal"
_ABSENT = ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)
_EXISTS = ErrorCode.Name(RESOURCE_ALREADY_EXISTS)
_LONGEST_DESCRIPTION = 5000  # of MLflow's column, where the database enforces it
_DESCRIPTIONS: Mapping[ModelName, str] = {
    POLICY: "Policies trained from human feedback; aliases: candidate, champion, previous.",
    REWARD_MODEL: "The reward models that belong to policies: the proxy under the policy's alias, the judge "
    "under the alias with -judge.",
}


def policy_registry(zenml: ZenMLProcess | None = None) -> "MLflowRegistry":
    """The registry of the active stack.

    Args:
        zenml: where to ask ZenML, instead of this process.

    Raises:
        ConfigError: the stack has no MLflow tracker to hold a registry.
    """
    uri = zenml.registry_uri() if zenml else registry_uri()
    if uri is None:
        raise ConfigError(
            "The active stack has no MLflow experiment tracker, which holds the model registry; activate a "
            "stack that has one, such as rlhf-local (`rlhf run` registers it)."
        )
    return MLflowRegistry(MlflowClient(tracking_uri=uri, registry_uri=uri), zenml=zenml)


def patiently(call: Callable[[], Result], *, doing: str) -> Result:
    """A call to the registry, repeated while its server is away."""
    return retried(call, passes=tracker_may_return, doing=doing, patience=PATIENCE_SECONDS)


def champion_directory(champion: ChampionRef) -> Path | None:
    """A local path with the champion's model, downloaded through the artifact store if it lies elsewhere.

    Raises:
        ModelError: the registry names a champion whose files are gone, or are another model's.
    """
    if not champion.exists or champion.path is None:
        return None
    path = Path(champion.path)
    if "://" in champion.path:
        from zenml.client import Client

        from materializers.transfer import fetch_directory

        cache = environment.home() / "cache" / "models" / str(champion.digest)
        path = fetch_directory(Client().active_stack.artifact_store, champion.path, cache, last=MANIFEST)
    if open_directory(path).digest != champion.digest:
        raise ModelError(
            f"Policy version {champion.version} was registered with other content than {path} holds; restore "
            "its files, or roll back."
        )
    return path


@dataclass(frozen=True)
class MLflowRegistry:
    """Registered policies and reward models. See :class:`rlhf.registry.store.RegistryStore` for the verbs."""

    mlflow: MlflowClient
    prefix: str = ""
    """Before every name, so that several registries fit on one server."""
    zenml: ZenMLProcess | None = None
    """Where ZenML's control plane is brought to this registry, instead of this process."""

    @property
    def place(self) -> str:
        return f"{socket.gethostname()}:{environment.home()}"

    @contextmanager
    def lock(self) -> Iterator[None]:
        with (environment.home() / f"{self.prefix}registry.lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def journal(self) -> Journal | None:
        model = self._model(self.prefix + OPEN_MOVE)
        return Journal.model_validate_json(model.tags[_JOURNAL_TAG]) if model else None

    def begin(self, journal: Journal) -> bool:
        try:
            self.mlflow.create_registered_model(
                self.prefix + OPEN_MOVE,
                tags={_JOURNAL_TAG: journal.model_dump_json()},
                description="A move is being made. If this stays, run `rlhf registry repair`.",
            )
        except MlflowException as error:
            if error.error_code != _EXISTS:
                raise
            found = self.journal()  # a request that was sent again finds its own
            return found is not None and found.id == journal.id
        return True

    def record(self, journal: Journal) -> None:
        self.mlflow.set_registered_model_tag(self.prefix + OPEN_MOVE, _JOURNAL_TAG, journal.model_dump_json())

    def end(self) -> None:
        try:
            self.mlflow.delete_registered_model(self.prefix + OPEN_MOVE)
        except MlflowException as error:
            if error.error_code != _ABSENT:
                raise

    def aliases(self) -> dict[str, str]:
        models = {name: self._model(self.prefix + name) for name in _DESCRIPTIONS}
        return {
            f"{name}@{alias}": str(version)
            for name, model in models.items()
            if model is not None
            for alias, version in model.aliases.items()
        }

    def versions(self, model: ModelName) -> list[RegisteredVersion]:
        return [_registered(version) for version in self.mlflow_versions(model)]

    def champion(self) -> RegisteredVersion | None:
        """The policy under the alias ``champion``."""
        return self.by_alias(CHAMPION)

    def by_alias(self, alias: Alias) -> RegisteredVersion | None:
        """The policy under an alias."""
        return at(self, alias)

    def by_version(self, version: str) -> RegisteredVersion | None:
        """The policy with a number."""
        return next((found for found in self.versions(POLICY) if found.version == version), None)

    def register(self, model: ModelName, candidate: Candidate) -> RegisteredVersion:
        self._ensure(model)
        from ops.model_source import version_source

        run_id = candidate.tags.get(MLFLOW_RUN_TAG)
        version = self.mlflow.create_model_version(
            self.prefix + model,
            source=version_source(self.mlflow, candidate.path, run_id, candidate.digest),
            run_id=run_id,
            tags={**candidate.tags, DIGEST_TAG: candidate.digest, PATH_TAG: candidate.path},
            description=_shortened(candidate.description),
            await_creation_for=0,
        )
        return _registered(version)

    def set_alias(self, place: str, version: str | None) -> None:
        name, _, alias = (self.prefix + place).partition("@")
        if version is not None:
            self.mlflow.set_registered_model_alias(name, alias, version)
        elif place in self.aliases():
            self.mlflow.delete_registered_model_alias(name, alias)

    def set_tags(self, model: ModelName, version: str, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self.mlflow.set_model_version_tag(self.prefix + model, version, key, value)

    def available(self, version: RegisteredVersion) -> bool:
        if "://" not in version.path:
            return (Path(version.path) / MANIFEST).exists()
        from zenml.client import Client

        return bool(Client().active_stack.artifact_store.exists(f"{version.path.rstrip('/')}/{MANIFEST}"))

    def follow(self) -> None:
        to_zenml = self.zenml.mirror if self.zenml else mirror
        aliases = self.aliases()
        for model, description in _DESCRIPTIONS.items():
            versions = [
                MirroredVersion(
                    version=str(version.version),
                    digest=version.tags.get(DIGEST_TAG, ""),
                    artifact=version.tags.get(ARTIFACT_TAG),
                    created=version.creation_timestamp,
                )
                for version in self.mlflow_versions(model)
            ]
            if versions:
                own = {p.partition("@")[2]: v for p, v in aliases.items() if p.startswith(f"{model}@")}
                to_zenml(self.prefix + model, description, versions, own)

    def description(self, model: ModelName, version: str) -> str:
        """What MLflow shows of a version: its card, perhaps cut."""
        return str(self.mlflow.get_model_version(self.prefix + model, version).description or "")

    def mlflow_versions(self, model: ModelName) -> list[ModelVersion]:
        """MLflow's own records of all versions, oldest first."""
        found: list[ModelVersion] = []
        token: str | None = None
        while token is None or token:
            page = self.mlflow.search_model_versions(f"name = '{self.prefix}{model}'", page_token=token)
            found += page
            token = page.token or ""
        return sorted(found, key=lambda version: int(version.version))

    def _model(self, name: str) -> RegisteredModel | None:
        try:
            return self.mlflow.get_registered_model(name)
        except MlflowException as error:
            if error.error_code == _ABSENT:
                return None
            raise

    def _ensure(self, model: ModelName) -> None:
        try:
            self.mlflow.create_registered_model(self.prefix + model, description=_DESCRIPTIONS[model])
        except MlflowException as error:
            if error.error_code != _EXISTS:
                raise


def _registered(version: ModelVersion) -> RegisteredVersion:
    path = version.tags.get(PATH_TAG) or version.source
    return RegisteredVersion(str(version.version), version.tags.get(DIGEST_TAG, ""), path, dict(version.tags))


def _shortened(card: str) -> str:
    if len(card) <= _LONGEST_DESCRIPTION:
        return card
    rest = "\n\nThe whole card lies beside the model's directory."
    return card[: _LONGEST_DESCRIPTION - len(rest)] + rest
