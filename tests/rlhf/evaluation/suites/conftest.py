"""Tiny models for the suites, built on the fly, and the publishers' files where a folder has them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf.evaluation.suites.respondent import Respondent, respondent
from rlhf.models.architecture import new_llama
from rlhf.models.settings_generation import GenerationSettings
from rlhf.models.tokenizer import train_tokenizer
from rlhf.training.settings import ArchitectureSettings

TEXTS = [
    "The nurse said that she would help, and the doctor said that he would not.",
    "I can't help with that, but here is what you can do about your order 48213.",
]
SHAPE = ArchitectureSettings(hidden_size=32, layers=1, heads=2, ffn_size=48, max_positions=128)
# The sandbox of the tests takes RLHF_DATA out of the environment, so that it has another name here.
PUBLISHED = Path(os.environ.get("SAFETY_DATA", "."))


@pytest.fixture(scope="session")
def suite_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directories of a policy and of an SFT model with other weights."""
    folder = tmp_path_factory.mktemp("suite-models")
    tokenizer = train_tokenizer(TEXTS, vocabulary_size=300, max_length=128)
    for role, seed in (("policy", 1), ("sft", 2)):
        new_llama(SHAPE, tokenizer, seed=seed).save_pretrained(folder / role)
        tokenizer.save_pretrained(folder / role)
    return {role: folder / role for role in ("policy", "sft")}


@pytest.fixture(scope="session")
def policy(suite_models: dict[str, Path]) -> Iterator[Respondent]:
    """The policy, loaded."""
    with respondent(
        "policy",
        suite_models["policy"],
        base=suite_models["sft"],
        generation=GenerationSettings(max_new_tokens=8),
        seed=0,
        batch_size=16,
        token_budget=4096,
    ) as model:
        yield model


@pytest.fixture
def published() -> Path:
    """The folder with the publishers' files that the environment variable SAFETY_DATA names."""
    if not (PUBLISHED / "crows_pairs.jsonl.gz").is_file():
        pytest.skip("SAFETY_DATA names no folder with the publishers' files.")
    return PUBLISHED
