"""Where the feedback ledger of this installation is, and which places a stack can use."""

from pathlib import Path

from zenml.artifact_stores import LocalArtifactStore
from zenml.artifact_stores.base_artifact_store import BaseArtifactStore

from ops import environment
from rlhf.errors import ConfigError
from rlhf.feedback.ledger.settings import LedgerSettings, is_remote
from rlhf.feedback.settings import FeedbackSettings


def default_url() -> str:
    """The ledger of this installation: ``ledger`` in the state folder."""
    return str(environment.home() / "ledger")


def with_ledger(settings: FeedbackSettings) -> FeedbackSettings:
    """Settings that name a ledger, this installation's by default; a relative folder is taken from the
    working directory."""
    url = settings.ledger.url or default_url()
    if not is_remote(url):
        url = str(Path(url.removeprefix("file://")).resolve())
    ledger = LedgerSettings.model_validate({**settings.ledger.model_dump(), "url": url})
    return settings.model_copy(update={"ledger": ledger})


def check_reach(settings: LedgerSettings, store: BaseArtifactStore) -> None:
    """Refuse a ledger that the steps of a run could not share.

    Raises:
        ConfigError: the artifact store is remote, so steps run on other machines, and the ledger is a folder
            of this one.
    """
    if not isinstance(store, LocalArtifactStore) and not is_remote(settings.url or default_url()):
        raise ConfigError(
            f"parameters.feedback.ledger.url: {settings.url or default_url()} is a folder of this machine, "
            f"but steps of a stack with the artifact store {store.name!r} ({store.path}) may run on others; "
            "name a URL that they all reach, such as s3://bucket/ledger."
        )
