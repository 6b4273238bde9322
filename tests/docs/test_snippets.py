"""The Python on the documentation pages runs as it stands, with a tiny model in place of a hub's."""

import re
from pathlib import Path

import pytest
import torch
from datasets import DatasetDict

from ops.environment import PROJECT_ROOT
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
    texts = DatasetDict({"train": _rows(TEXT)})
    settings = PretrainSettings(vocabulary_size=300, architecture=SHAPE, max_length=64)
    return pretrain(texts, settings, tmp_path_factory.mktemp("hub") / "model", seed=1).path


def _rows(texts: list[str]):  # type: ignore[no-untyped-def]
    from datasets import Dataset

    return Dataset.from_dict({"text": texts})


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
