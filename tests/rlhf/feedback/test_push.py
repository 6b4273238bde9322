from xml.etree import ElementTree

import pytest

from rlhf.errors import ConfigError, DataError
from rlhf.feedback.annotation_servers.label_studio import schema_of
from rlhf.feedback.annotation_servers.mapping import plan_mapping
from rlhf.feedback.annotation_servers.settings import ArgillaTarget, MappingSettings
from rlhf.feedback.push import RankingItem, label_config, push_prompts
from rlhf.feedback.rows import Message

PROMPT = (Message(role="user", content="Hi"),)
TARGET = ArgillaTarget(api_url="http://127.0.0.1:1", workspace="w", dataset="d", key_variable="NO_SUCH_KEY")


def test_equal_content_has_one_id_and_another_policys_completions_have_another() -> None:
    assert RankingItem(PROMPT, ("a", "b")).id == RankingItem(PROMPT, ("a", "b")).id
    assert RankingItem(PROMPT, ("a", "b")).id != RankingItem(PROMPT, ("a", "c")).id


@pytest.mark.parametrize(("completions", "kind"), [(2, "comparison"), (3, "ranking"), (8, "ranking")])
def test_what_is_pushed_is_understood_without_a_mapping_when_it_is_read(completions: int, kind: str) -> None:
    config = label_config(completions)
    ElementTree.fromstring(config)
    plan = plan_mapping(schema_of(config), MappingSettings(), "pushed")
    assert (plan.prompt, plan.meanings["ranking"].kind) == ("prompt", kind)


def test_nothing_is_sent_of_a_push_that_cannot_be() -> None:
    with pytest.raises(DataError, match="nothing to push"):
        push_prompts(TARGET, [])
    with pytest.raises(DataError, match="equally many completions"):
        push_prompts(TARGET, [RankingItem(PROMPT, ("a", "b")), RankingItem(PROMPT, ("a", "b", "c"))])
    with pytest.raises(ConfigError, match="needs a key in the environment variable NO_SUCH_KEY"):
        push_prompts(TARGET, [RankingItem(PROMPT, ("a", "b"))])
