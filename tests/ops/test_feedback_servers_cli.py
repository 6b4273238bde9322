from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from datasets import Dataset, DatasetDict

from ops import feedback_servers_cli
from ops.feedback_servers_cli import export, push
from rlhf.errors import ConfigError
from rlhf.feedback.annotation_servers.settings import ArgillaTarget, LabelStudioTarget
from rlhf.feedback.push import RankingItem

PROMPTS = DatasetDict(
    train=Dataset.from_list([{"prompt": [{"role": "user", "content": f"Question {n}?"}]} for n in range(9)])
)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a push would send, with a policy that always says the same."""
    found: list[Any] = []

    def sample_items(policy: Path, prompts: Any, settings: Any, **options: Any) -> list[RankingItem]:
        found.append((policy, settings, options))
        return [RankingItem(prompt, ("a", "b")) for prompt in prompts]

    def push_prompts(target: Any, items: list[RankingItem]) -> int:
        found.append((target, items))
        return len(items)

    monkeypatch.setattr("rlhf.feedback.push.sample_items", sample_items)
    monkeypatch.setattr("rlhf.feedback.push.push_prompts", push_prompts)
    monkeypatch.setattr(feedback_servers_cli, "_view", lambda name, run: {"prompts": PROMPTS}[name])
    monkeypatch.setattr(feedback_servers_cli, "_champion", lambda: Path("champion"))
    return found


def test_a_push_takes_the_champion_and_the_asked_number_of_prompts(sent: list[Any]) -> None:
    to = ["--to", "argilla", "--url", "http://server/", "--workspace", "desk", "--dataset", "ranking"]
    done = CliRunner().invoke(push, [*to, "--prompts", "3", "--completions", "2"])
    assert (done.exit_code, done.output.split(" records")[0]) == (0, "3 of 3")
    (policy, _, options), (target, items) = sent
    assert (policy, options["completions"]) == (Path("champion"), 2)
    assert target == ArgillaTarget(api_url="http://server", workspace="desk", dataset="ranking", overlap=2)
    assert len({item.id for item in items}) == 3


def test_label_studio_takes_a_title_and_the_same_seed_the_same_prompts(sent: list[Any]) -> None:
    to = ["--to", "label_studio", "--url", "http://server", "--dataset", "Ranking", "--prompts", "4"]
    for _ in range(2):
        assert CliRunner().invoke(push, to).exit_code == 0
    assert sent[1] == sent[3]
    assert isinstance(sent[1][0], LabelStudioTarget)


def test_an_option_that_the_server_needs_is_asked_for(sent: list[Any]) -> None:
    done = CliRunner().invoke(push, ["--to", "argilla", "--url", "http://server", "--dataset", "ranking"])
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception).startswith("--workspace: ")
    assert not sent


def test_a_view_is_exported_as_csv(sent: list[Any], tmp_path: Path) -> None:
    done = CliRunner().invoke(export, ["prompts", str(tmp_path / "x.csv"), "--spreadsheet"])
    assert done.exit_code == 0
    assert (tmp_path / "x.csv").read_bytes().startswith(b"\xef\xbb\xbfprompt,split\r\nQuestion 0?,train\r\n")
