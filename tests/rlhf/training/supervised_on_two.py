"""Run on two processes, and by a test on one: short trainings of every kind, whose models are left behind.

RANK=... WORLD_SIZE=2 python supervised_on_two.py BASE OUT
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import DatasetDict

from rlhf.errors import InterruptedRunError
from rlhf.models.directory import ModelDirectory
from rlhf.tracking import RecordingSink
from rlhf.training.interruption import request_stop, withdraw_stop_request
from rlhf.training.pretrain import pretrain
from rlhf.training.processes import joined_processes
from rlhf.training.reward_model import train_reward_model
from rlhf.training.settings import (
    LoRASettings,
    OptimizerSettings,
    PretrainSettings,
    RewardModelSettings,
    SFTSettings,
)
from rlhf.training.sft import train_sft
from tests.rlhf.training.conftest import SHAPE, answer, comparison_rows, demonstration_rows

# One update that is nearly the gradient itself: AdamW's usual epsilon makes of it little more than its sign.
FIRST: dict[str, Any] = {
    "max_steps": 1,
    "batch_size": 8,
    "micro_batch_size": 2,
    "max_length": 64,
    "logging_steps": 1,
    "evaluations": 1,
    "precision": "fp32",
    "optimizer": OptimizerSettings(learning_rate=1.0, epsilon=1.0, warmup_fraction=0.0),
}
# two epochs of four steps with dropout, which takes random numbers in each process
LONG: dict[str, Any] = {
    **FIRST,
    "max_steps": None,
    "epochs": 2,
    "batch_size": 16,
    "checkpoint_every": 3,
    "lora": LoRASettings(rank=2, alpha=4, dropout=0.3),
    "optimizer": OptimizerSettings(learning_rate=1e-2),
}


def data() -> dict[str, DatasetDict]:
    """Rows of unequal lengths."""

    def longer(row: dict[str, Any], index: int) -> dict[str, Any]:
        text = row["completion"][0]["content"] + " Bye." * (index % 5)
        return {"completion": answer(text), "weight": 1.0 + index % 3}

    demonstrations = DatasetDict(
        train=demonstration_rows(0, 64).map(longer, with_indices=True), dev=demonstration_rows(500, 6)
    )
    return {
        "demonstrations": demonstrations,
        "comparisons": DatasetDict(train=comparison_rows(0, 64), dev=comparison_rows(500, 6)),
        "texts": DatasetDict(
            train=demonstrations["train"].map(
                lambda row: {"text": row["completion"][0]["content"]},
                remove_columns=demonstrations["train"].column_names,
            )
        ),
    }


def trainings(
    base: Path, out: Path, sharding: str = "none"
) -> dict[str, Callable[[RecordingSink | None], ModelDirectory]]:
    """The first update of each kind of training, by its name; also the name of its model's directory."""
    rows = data()
    shared: dict[str, Any] = {**FIRST, "sharding": sharding}
    weighted = SFTSettings(**shared, use_weights=True)
    made = PretrainSettings(**{**shared, "max_length": 32}, vocabulary_size=300, architecture=SHAPE, steps=1)
    return {
        "sft": lambda sink: train_sft(
            base, rows["demonstrations"], SFTSettings(**shared), out / "sft", sink=sink
        ),
        "weighted sft": lambda sink: train_sft(
            base, rows["demonstrations"], weighted, out / "weighted sft", sink=sink
        ),
        "reward model": lambda sink: train_reward_model(
            base, rows["comparisons"], RewardModelSettings(**shared), out / "reward model", sink=sink
        ),
        "pretrain": lambda sink: pretrain(rows["texts"], made, out / "pretrain", sink=sink),
    }


class StoppingSink(RecordingSink):
    """Asks for a stop as soon as a step is reached; only process 0 has a sink that hears of it."""

    def progress(self, done: int, total: int, note: str = "") -> None:
        if done == 5:
            request_stop()


def interrupted(base: Path, out: Path) -> tuple[str, str]:
    """Digests of a run on all processes without an interruption, and of one that was stopped and resumed."""
    rows = data()["demonstrations"]
    whole = train_sft(base, rows, SFTSettings(**LONG), out / "undisturbed", sink=RecordingSink())
    kept = {"checkpoints": out / "kept"}
    try:
        train_sft(base, rows, SFTSettings(**LONG), out / "resumed", sink=StoppingSink(), **kept)
    except InterruptedRunError:
        withdraw_stop_request()
    else:
        raise AssertionError("the stop was not heard")
    return whole.digest, train_sft(base, rows, SFTSettings(**LONG), out / "resumed", **kept).digest


if __name__ == "__main__":
    base, out = map(Path, sys.argv[1:])
    with joined_processes(rendezvous=out / "rendezvous") as joined:
        curves = {}
        for sharding in ("none", "fsdp"):
            for name, train in trainings(base, out / sharding, sharding).items():
                sink = RecordingSink()
                train(sink)
                curves[f"{sharding} {name}"] = sink.curves
        digests = interrupted(base, out)
        (out / f"rank{joined.rank}.json").write_text(json.dumps({"curves": curves, "digests": digests}))
