"""Contamination of training by evaluation: training prompts that share a long run of words with a dev or test
prompt. Exact where near-duplicates are fuzzy: a copied passage inside a long prompt is found as well."""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"\w+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_MOST_TRAINING_PROMPTS = 10
"""Runs that more training prompts hold are common phrases, not contamination (Brown et al. 2020, app. C)."""


def contaminated(training: Mapping[str, str], evaluation: Iterable[str], ngram: int) -> frozenset[str]:
    """Keys of the training texts that share ``ngram`` words in a row with an evaluation text.

    After GPT-3's cleaning of its benchmarks (Brown et al. 2020, arXiv:2005.14165, appendix C): words without
    regard to case and punctuation, and a run that is in more than ten training texts does not count. Here
    the whole text is left out, since a prompt with a hole is no prompt. Texts shorter than ``ngram`` words
    are never found; whether they are copies is for the search of near-duplicates.

    Args:
        training: texts by key.
        evaluation: texts of dev and test.
        ngram: number of words.
    """
    vocabulary: dict[str, int] = {}
    keys = list(training)
    # Sets per text, as (text, run) pairs: a run counts once for each text that holds it.
    held_out, _ = _runs(list(evaluation), ngram, vocabulary)
    runs, owners = _runs([training[key] for key in keys], ngram, vocabulary)
    shared = np.isin(runs, np.unique(held_out))
    runs, owners = runs[shared], owners[shared]
    if not len(runs):
        return frozenset()
    _, run_of = np.unique(runs, return_inverse=True)
    pairs = np.unique(np.stack([run_of, owners]), axis=1)
    texts_with = np.bincount(pairs[0])
    rare = texts_with[pairs[0]] <= _MOST_TRAINING_PROMPTS
    return frozenset(keys[owner] for owner in np.unique(pairs[1][rare]).tolist())


def _runs(
    texts: Sequence[str], ngram: int, vocabulary: dict[str, int]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """64-bit hashes of all runs of words, and the index of the text that each is of."""
    numbers: list[int] = []
    lengths = np.zeros(len(texts), dtype=np.int64)
    for index, text in enumerate(texts):
        words = _WORD.findall(text.casefold())
        lengths[index] = len(words)
        numbers += [vocabulary.setdefault(word, len(vocabulary)) for word in words]
    codes = np.array(numbers, dtype=np.uint64)
    owners = np.repeat(np.arange(len(texts)), lengths)
    count = len(codes) - ngram + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)
    hashes = np.zeros(count, dtype=np.uint64)
    for offset in range(ngram):
        hashes = (hashes ^ (codes[offset : offset + count] + np.uint64(1))) * _MULTIPLIER
        hashes ^= hashes >> np.uint64(29)
    whole = owners[:count] == owners[ngram - 1 :]
    return hashes[whole], owners[:count][whole]
