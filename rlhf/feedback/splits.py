"""Which side a prompt stands on. A function of the prompt and the settings alone: no row, no order of arrival
and no other prompt has a say, so a prompt keeps its side for ever."""

import hashlib
from collections.abc import Iterable
from typing import Literal, get_args

from rlhf.feedback.rows import Message, prompt_hash, sha256_of
from rlhf.feedback.settings import DatasetSettings

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


def split_of(prompt: Iterable[Message], settings: DatasetSettings) -> Split:
    """The split of every row about this prompt."""
    return split_of_key(prompt_hash(prompt), settings)


def fold_of(prompt: Iterable[Message], folds: int, salt: str) -> int:
    """The fold, 0 to ``folds - 1``, of every comparison about this prompt; independent of its split."""
    return fold_of_key(prompt_hash(prompt), folds, salt)


def text_key(text: str) -> str:
    """Identity of a text without a prompt, up to surrounding whitespace."""
    return sha256_of(text.strip())


def split_of_key(key: str, settings: DatasetSettings) -> Split:
    """The split of a prompt or text by its hash. Test is taken from the low end and dev from the high end of
    the unit interval, so that changing one fraction moves nothing between the other side and training."""
    at = _unit_interval("split", settings.split_salt, key)
    if at < settings.test_fraction:
        return "test"
    return "dev" if at >= 1 - settings.dev_fraction else "train"


def fold_of_key(key: str, folds: int, salt: str) -> int:
    """The fold of a prompt by its hash."""
    return int(_unit_interval("fold", salt, key) * folds)


def _unit_interval(purpose: str, salt: str, key: str) -> float:
    digest = hashlib.sha256(f"{purpose}\0{salt}\0{key}".encode()).digest()
    # 53 bits: every value is exact as a float and below 1.
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53
