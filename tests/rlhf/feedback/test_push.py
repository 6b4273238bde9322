from pathlib import Path
from xml.etree import ElementTree

import pytest

from rlhf.errors import ConfigError, DataError
from rlhf.feedback.annotation_servers.label_studio import schema_of
from rlhf.feedback.annotation_servers.mapping import plan_mapping
from rlhf.feedback.annotation_servers.settings import ArgillaTarget, MappingSettings
from rlhf.feedback.push import RankingItem, label_config, push_prompts, sample_items
from rlhf.feedback.rows import Message
from rlhf.models.architecture import new_llama
from rlhf.models.settings_generation import GenerationSettings
from rlhf.models.tokenizer import train_tokenizer
from rlhf.training.settings import ArchitectureSettings

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


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a few thousand random weights."""
    folder = tmp_path_factory.mktemp("policy")
    tokenizer = train_tokenizer(["Where is my lamp? It is on its way."], vocabulary_size=300, max_length=64)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    shape = ArchitectureSettings(hidden_size=16, layers=1, heads=2, ffn_size=24, max_positions=64)
    new_llama(shape, tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_each_prompt_gets_as_many_different_completions_as_asked_for(policy: Path) -> None:
    prompts = [(Message(role="user", content=text),) for text in ("Where is my lamp?", "Is it on its way?")]
    settings = GenerationSettings(max_new_tokens=6)
    items = sample_items(policy, prompts, settings, completions=3, seed=1)
    assert [item.prompt for item in items] == prompts
    assert [len(set(item.completions)) for item in items] == [3, 3]
    assert sample_items(policy, prompts, settings, completions=3, seed=1) == items
    assert sample_items(policy, prompts, settings, completions=3, seed=2) != items


def test_a_prompt_to_which_the_policy_always_says_the_same_is_left_out_and_said_to_be(
    policy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    greedy = GenerationSettings(max_new_tokens=4, temperature=0)
    assert sample_items(policy, [PROMPT], greedy, completions=2) == []
    assert "1 of 1 prompts are left out" in caplog.text
    with pytest.raises(ConfigError, match="two completions or more"):
        sample_items(policy, [PROMPT], greedy, completions=1)
