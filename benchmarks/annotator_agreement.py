"""Measures agreement and aggregation on published judgements: `python benchmarks/annotator_agreement.py
FOLDER`, the folder as in docs/real-feedback.md.

UKPConvArg1 (Habernal & Gurevych 2016) has about five crowd workers for each pair of arguments and publishes a
gold label, itself made from the same judgements by MACE; PandaLM (Wang et al. 2023) has three annotators and
no gold label, so each annotator is judged by the other two. Both have ties.
"""

import argparse
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rlhf.feedback.aggregation.dawid_skene import dawid_skene
from rlhf.feedback.aggregation.majority import label_counts, plurality
from rlhf.feedback.annotators import annotator_figures
from rlhf.feedback.ingest import ingest
from rlhf.feedback.settings import FeedbackSettings

UKP = ("preference/ukpconvarg1_train.jsonl.gz", "preference/ukpconvarg1_test.jsonl.gz")
PANDALM = "multi_annotator/pandalm_testset_v1.jsonl.gz"

_GOLD = {"a1": 0, "a2": 1, "equal": 2}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    print("| source | judgements | annotators | items | alpha | 95 % interval | with the others' majority |")
    print("|---|---|---|---|---|---|---|")
    for file in (*UKP, PANDALM):
        print(agreement_row(folder / file))
    print("\n| source | gold labels | majority | Dawid-Skene | undecided majorities |\n|---|---|---|---|---|")
    for file in UKP:
        print(gold_row(folder / file))


def agreement_row(path: Path) -> str:
    """One line on how far the annotators of a file agree."""
    settings = FeedbackSettings.model_validate({"sources": [{"type": "file", "path": path}]})
    (figures,) = annotator_figures(ingest(settings).table.to_pylist())
    agreement = figures.agreement
    assert agreement is not None, f"{path} has no item that two annotators judged"
    shared = sum(annotator.shared for annotator in figures.annotators)
    agreed = sum((annotator.agreement or 0.0) * annotator.shared for annotator in figures.annotators)
    return (
        f"| {figures.source} | {figures.judgements:,} | {len(figures.annotators):,} | {figures.items:,} "
        f"| {agreement.alpha:.3f} | {agreement.interval.low:.3f} to {agreement.interval.high:.3f} "
        f"| {agreed / shared:.1%} |"
    )


def gold_row(path: Path) -> str:
    """One line on how often the aggregated label of a UKP file is the publishers'."""
    items, annotators, labels, gold = judgements(path)
    counts = label_counts(items, labels, 3)
    known = gold >= 0
    majority = plurality(counts)
    modelled = dawid_skene(items, annotators, labels, label_count=3).posterior.argmax(axis=1)
    return (
        f"| {path.name.split('.')[0]} | {known.sum():,} | {np.mean(majority[known] == gold[known]):.1%} "
        f"| {np.mean(modelled[known] == gold[known]):.1%} | {np.mean(majority[known] < 0):.1%} |"
    )


def judgements(path: Path) -> tuple[Any, Any, Any, Any]:
    """Item, annotator and label of each judgement of a UKP file, and each item's gold label, -1 for none."""
    names: dict[str, int] = {}
    items, annotators, labels, gold = [], [], [], []
    for item, row in enumerate(_rows(path)):
        gold.append(_GOLD.get(str(row["goldLabel"]), -1))
        for given in row["mTurkAssignments"]:
            items.append(item)
            annotators.append(names.setdefault(given["turkID"], len(names)))
            labels.append(_GOLD[given["value"]])
    return np.array(items), np.array(annotators), np.array(labels), np.array(gold)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


if __name__ == "__main__":
    main()
