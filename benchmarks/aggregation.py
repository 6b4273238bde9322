"""Measures Dawid-Skene against the majority: `python benchmarks/aggregation.py`.

First its accuracy on simulated annotators, half of them good, three in ten hardly better than chance and two
in ten adversarial; then its time over a million judgements by 3,000 of them.
"""

import argparse
import platform
import time

import numpy as np
from numpy.typing import NDArray

from rlhf.feedback.aggregation.dawid_skene import dawid_skene
from rlhf.feedback.aggregation.majority import label_counts, plurality

_LABELS = 3
_PER_ITEM = 5

Integers = NDArray[np.int64]


def main() -> None:
    """Simulate, aggregate both ways and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--judgements", type=int, default=1_000_000)
    parser.add_argument("--annotators", type=int, default=3_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    print(f"{platform.machine()}, numpy {np.__version__}, {_PER_ITEM} judgements an item, {_LABELS} labels")
    print("| judgements | annotators | seed | majority | Dawid-Skene | iterations | wall s | CPU s |")
    print("|---|---|---|---|---|---|---|---|")
    for seed in options.seeds:
        _row(10_000, 40, seed)
    _row(options.judgements, options.annotators, options.seeds[0])


def _row(judgements: int, count: int, seed: int) -> None:
    truth, items, annotators, labels = simulated(judgements // _PER_ITEM, count, seed)
    majority = plurality(label_counts(items, labels)) == truth
    start, busy = time.perf_counter(), time.process_time()
    fitted = dawid_skene(items, annotators, labels)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    assert fitted.converged, "expectation-maximisation did not converge"
    modelled = fitted.posterior.argmax(axis=1) == truth
    print(
        f"| {len(labels):,} | {count:,} | {seed} | {majority.mean():.1%} | {modelled.mean():.1%} "
        f"| {fitted.iterations} | {seconds:.1f} | {busy:.1f} |"
    )


def simulated(items: int, count: int, seed: int) -> tuple[Integers, Integers, Integers, Integers]:
    """True labels (items,), and item, annotator and label of each judgement; an error is any other label."""
    rng = np.random.default_rng(seed)
    good, weak = count // 2, count * 3 // 10
    right = np.concatenate(
        [
            rng.uniform(0.75, 0.95, good),
            rng.uniform(1 / _LABELS, 0.5, weak),
            rng.uniform(0.0, 0.15, count - good - weak),
        ]
    )
    truth = rng.integers(0, _LABELS, items)
    item = np.repeat(np.arange(items), _PER_ITEM)
    # Without replacement within an item: one random rotation of a fixed stride through the annotators.
    first = rng.integers(0, count, items)
    stride = rng.integers(1, count // _PER_ITEM, items)
    annotator = (first[:, None] + stride[:, None] * np.arange(_PER_ITEM)).ravel() % count
    wrong = (truth[item] + rng.integers(1, _LABELS, len(item))) % _LABELS
    return truth, item, annotator, np.where(rng.random(len(item)) < right[annotator], truth[item], wrong)


if __name__ == "__main__":
    main()
