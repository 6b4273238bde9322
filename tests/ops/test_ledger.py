from types import SimpleNamespace
from typing import cast

import pytest
from zenml.artifact_stores.base_artifact_store import BaseArtifactStore
from zenml.client import Client

from ops import environment
from ops.ledger import check_reach, default_url, with_ledger
from rlhf.errors import ConfigError
from rlhf.feedback.ledger.settings import LedgerSettings
from rlhf.feedback.settings import FeedbackSettings

REMOTE = cast(BaseArtifactStore, SimpleNamespace(name="bucket", path="s3://bucket/artifacts"))


def test_the_ledger_is_in_the_state_folder_unless_the_config_names_another() -> None:
    sample = {"sources": [{"type": "sample"}]}
    assert default_url() == str(environment.home() / "ledger")
    assert with_ledger(FeedbackSettings.model_validate(sample)).ledger.url == default_url()
    named = FeedbackSettings.model_validate({**sample, "ledger": {"url": "s3://bucket/ledger"}})
    assert with_ledger(named).ledger.url == "s3://bucket/ledger"


@pytest.mark.parametrize("url", [None, "feedback/ledger", "file:///srv/ledger"])
def test_steps_that_run_elsewhere_need_a_ledger_that_they_can_reach(url: str | None) -> None:
    with pytest.raises(ConfigError, match=r"feedback\.ledger\.url: .* is a folder of this machine"):
        check_reach(LedgerSettings(url=url), REMOTE)


def test_a_shared_ledger_suits_a_remote_stack_and_a_folder_suits_the_local_one() -> None:
    check_reach(LedgerSettings(url="s3://bucket/ledger"), REMOTE)
    check_reach(LedgerSettings(), Client().active_stack.artifact_store)
