"""The Python on the documentation pages runs as it stands, with a tiny model in place of a hub's."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Dataset, DatasetDict

from ops.cli import main
from ops.environment import PROJECT_ROOT
from ops.run_config import SECTIONS, validate
from rlhf.feedback.ingest import ingest
from rlhf.feedback.settings import LAYOUT_NAMES, CustomSource, FeedbackSettings
from rlhf.models.rewards import FunctionReward
from rlhf.training.pretrain import pretrain
from rlhf.training.settings import ArchitectureSettings, PretrainSettings

DOCS = PROJECT_ROOT / "docs"
HUB_MODEL = "HuggingFaceTB/SmolLM2-135M"
SHAPE = ArchitectureSettings(hidden_size=32, layers=1, heads=2, ffn_size=48, max_positions=256)
TEXT = [
    "Hello, my lamp of order 48213 has not arrived. Can you help me, please?",
    "Dear Mirato, I am sorry that order 90210 is late. Kind regards, the support team",
]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def snippets(page: Path, language: str) -> str:
    """All fenced blocks of a language, as one text whose line numbers are the page's."""
    text = page.read_text(encoding="utf-8")
    lines = [""] * (text.count("\n") + 1)
    for found in _FENCE.finditer(text):
        if found[1] == language:
            first = text.count("\n", 0, found.start(2))
            for number, line in enumerate(found[2].splitlines()):
                lines[first + number] = line
    return "\n".join(lines)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An initialised Llama of a few thousand weights."""
    texts = DatasetDict({"train": Dataset.from_dict({"text": TEXT})})
    settings = PretrainSettings(vocabulary_size=300, architecture=SHAPE, max_length=64)
    return pretrain(texts, settings, tmp_path_factory.mktemp("hub") / "model", seed=1).path


def run(page: Path, folder: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Execute a page's Python in a folder; what it defined."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    code = snippets(page, "python").replace(HUB_MODEL, str(tiny_model))
    assert code.strip(), f"{page.name} holds no Python"
    defined: dict[str, object] = {"__name__": "snippets"}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        exec(compile(code, str(page), "exec"), defined)
    finally:
        torch.set_num_threads(threads)
    return defined


def test_the_library_page_trains_a_policy_from_feedback_to_evaluation(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(DOCS / "library.md", tmp_path, tiny_model, monkeypatch)
    assert (tmp_path / "runs/ppo/policy/model.safetensors").exists()
    assert "<svg" not in (tmp_path / "data.html").read_text()
    assert "win rate" in (tmp_path / "evaluation.html").read_text()


def test_the_function_of_the_rewards_page_is_a_reward(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(DOCS / "rewards.md", tmp_path, tiny_model, monkeypatch)
    (tmp_path / "snippet_rewards.py").write_text(snippets(DOCS / "rewards.md", "python"))
    monkeypatch.syspath_prepend(tmp_path)
    assert FunctionReward("snippet_rewards:brevity")(["Hi"], ["one two"]) == [-0.04]


def test_the_source_class_of_the_feedback_page_is_one_that_ingest_reads(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "snippet_tickets.py").write_text(snippets(DOCS / "feedback-sources.md", "python"))
    monkeypatch.syspath_prepend(tmp_path)
    source = CustomSource(cls="snippet_tickets:Tickets", options={"project": "desk"})
    result = ingest(FeedbackSettings(sources=(source,)))
    assert result.table.column("kind").to_pylist() == ["comparison"]
    assert not result.quarantined


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_every_yaml_example_is_part_of_a_valid_config(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_DATA", "data")
    sample = {"sources": [{"type": "sample"}]}
    for found in _FENCE.finditer(page.read_text(encoding="utf-8")):
        if found[1] == "yaml":
            block = yaml.safe_load(found[2])
            beside = {name: block[name] for name in SECTIONS if name in block}
            inside = {name: settings for name, settings in block.items() if name not in beside}
            config = block
            if "parameters" not in block:
                config = {"parameters": {"feedback": sample, **inside}, **beside}
            assert validate(config) == [], found[2]


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_every_command_and_link_on_a_page_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w[\w-]*):", (PROJECT_ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make (\w[\w-]*)", text, re.MULTILINE)) - {"PYTHON"} <= targets
    assert set(re.findall(r"(?:^|`)(?:\$ )?rlhf (\w+)", text, re.MULTILINE)) <= set(main.commands)
    for target, anchor in re.findall(r"\]\(([^)#:]+)(?:#([\w-]+))?\)", text):
        linked = page.parent / target
        assert linked.exists(), target
        if not anchor:
            continue
        headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}


def test_every_layout_has_a_row_on_the_feedback_page() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \|", (DOCS / "feedback-sources.md").read_text(), re.MULTILINE)
    assert set(LAYOUT_NAMES) <= set(rows)
