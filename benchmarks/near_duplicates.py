"""Measures the searches that compare training prompts with evaluation prompts: `python
benchmarks/near_duplicates.py`.

Prompts are sentences of words drawn by Zipf's law, so that common words repeat as in language. A known share
of the training prompts are edited copies of evaluation prompts, and another share hold a run of 13 words of
one; each search must find its own (near-duplicates are allowed to miss 1 %), or the script fails.
"""

import argparse
import platform
import random
import time
from collections.abc import Callable
from functools import partial

from rlhf.feedback.near_duplicates import jaccard, near_duplicates, shingles
from rlhf.feedback.quality.contamination import contaminated

_EVALUATION_SHARE = 0.1
_COPIED = 0.01
_THRESHOLD = 0.85
_NGRAM = 13


def main() -> None:
    """Make the prompts, run both searches, check what they found and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--prompts", type=int, default=200_000, help="training and evaluation prompts together"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    rng = random.Random(options.seed)
    evaluation = _prompts(int(options.prompts * _EVALUATION_SHARE), rng)
    training = {str(n): text for n, text in enumerate(_prompts(options.prompts - len(evaluation), rng))}
    copies, quotes = _plant(training, evaluation, rng)
    near = partial(near_duplicates, training, evaluation, _THRESHOLD)
    runs = partial(contaminated, training, evaluation, _NGRAM)
    rows = [("near-duplicates", *_timed(near), copies), (f"{_NGRAM} words in a row", *_timed(runs), quotes)]
    print(f"{len(training):,} training and {len(evaluation):,} evaluation prompts, {platform.machine()}")
    print("| search | wall s | CPU s | found | planted |\n|---|---|---|---|---|")
    for name, seconds, busy, found, planted in rows:
        if not planted <= found:
            missed = len(planted - found) / len(planted)
            assert name == "near-duplicates", f"{name}: some were missed"
            assert missed < 0.01, f"{name}: {missed:.1%} were missed"
        print(f"| {name} | {seconds:.1f} | {busy:.1f} | {len(found):,} | {len(planted):,} |")


def _timed(search: Callable[[], frozenset[str]]) -> tuple[float, float, frozenset[str]]:
    start, busy = time.perf_counter(), time.process_time()
    found = search()
    return time.perf_counter() - start, time.process_time() - busy, found


def _prompts(count: int, rng: random.Random) -> list[str]:
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(30_000)]
    weights = [1.0 / rank for rank in range(1, len(words) + 1)]
    stream = rng.choices(words, weights, k=count * 40)
    return [" ".join(stream[n * 40 : n * 40 + rng.randint(10, 40)]) for n in range(count)]


def _plant(
    training: dict[str, str], evaluation: list[str], rng: random.Random
) -> tuple[frozenset[str], frozenset[str]]:
    """Put edited copies and quotations into training; gives the keys of either that must be found."""
    copies, quotes = set(), set()
    for key in rng.sample(sorted(training), int(len(training) * _COPIED)):
        words = rng.choice(evaluation).split()
        if len(copies) <= len(quotes):
            original = " ".join(words)
            words[rng.randrange(len(words))] = "zq"
            training[key] = " ".join(words)
            if jaccard(shingles(original), shingles(training[key])) >= _THRESHOLD:
                copies.add(key)
        elif len(words) >= _NGRAM:
            training[key] += " " + " ".join(words[:_NGRAM])
            quotes.add(key)
    return frozenset(copies), frozenset(quotes)


if __name__ == "__main__":
    main()
