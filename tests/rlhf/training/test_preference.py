"""DPO and KTO: that they learn what is preferred, from which rows, and what they refuse."""

from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, concatenate_datasets

from rlhf.errors import ConfigError, DataError
from rlhf.models.chat import encode_conversation
from rlhf.models.loading import load_tokenizer
from rlhf.tracking import RecordingSink
from rlhf.training.policy_result import PolicyResult
from rlhf.training.preference import (
    MismatchingCollator,
    encode_paired,
    encode_unpaired,
    train_on_comparisons,
)
from rlhf.training.settings import OptimizerSettings
from rlhf.training.settings_policy import DPOSettings, KTOSettings
from tests.rlhf.training.conftest import answer, comparison_rows, question

KINDS = {"dpo": DPOSettings, "kto": KTOSettings}


def train(base: Path, rows: Dataset, out: Path, algorithm: str, **changes: object) -> PolicyResult:
    sink = changes.pop("sink", None)
    values = {
        "max_steps": 8,
        "batch_size": 16,
        "optimizer": OptimizerSettings(learning_rate=3e-3, schedule="constant", warmup_fraction=0.0),
        "precision": "fp32",
        "logging_steps": 1,
        **changes,
    }
    settings = KINDS[algorithm](**values)
    return train_on_comparisons(base, rows, settings, output_dir=out, sink=sink)  # type: ignore[arg-type]


@pytest.mark.parametrize("algorithm", KINDS)
def test_the_chosen_side_becomes_likelier_than_the_rejected(
    base: Path, comparisons: DatasetDict, tmp_path: Path, algorithm: str
) -> None:
    sink = RecordingSink()
    train(base, comparisons["train"], tmp_path / "out", algorithm, sink=sink)
    margins = [value for _, value in sink.curves[f"{algorithm}/rewards/margins"]]
    assert margins[0] == pytest.approx(0.0, abs=1e-5)
    assert margins[-1] > 1.0
    assert sink.curves[f"{algorithm}/loss"][-1][1] < sink.curves[f"{algorithm}/loss"][0][1]


def test_kto_learns_from_labelled_rows_too(base: Path, tmp_path: Path) -> None:
    rows = Dataset.from_list(
        [
            {
                "prompt": question(i),
                "completion": answer("It is on its way." if i % 3 else "No idea."),
                "label": bool(i % 3),
            }
            for i in range(48)
        ]
    )
    sink = RecordingSink()
    train(base, rows, tmp_path / "out", "kto", sink=sink)
    assert sink.curves["kto/rewards/margins"][-1][1] > 0.5
    with pytest.raises(DataError, match="lack the columns chosen, rejected"):
        train(base, rows, tmp_path / "dpo", "dpo")


def judged(rows: Dataset, weight: list[float], agreement: list[float]) -> Dataset:
    bare = rows.remove_columns([name for name in ("weight", "agreement") if name in rows.column_names])
    return bare.add_column("weight", weight).add_column("agreement", agreement)


def curves(base: Path, rows: Dataset, out: Path, **changes: object) -> dict[str, list[float]]:
    sink = RecordingSink()
    train(base, rows, out, "dpo", sink=sink, **changes)
    return {name: [value for _, value in curve] for name, curve in sink.curves.items()}


def test_weights_and_agreements_of_one_train_as_if_there_were_none(
    base: Path, comparisons: DatasetDict, tmp_path: Path
) -> None:
    rows = comparisons["train"]
    ones = judged(rows, [1.0] * len(rows), [1.0] * len(rows))
    plain = curves(base, rows, tmp_path / "plain", max_steps=4)
    told = curves(base, ones, tmp_path / "told", max_steps=4, use_weights=True, soft_labels=True)
    for name in ("dpo/loss", "dpo/rewards/margins", "dpo/rewards/chosen", "dpo/logps/rejected"):
        assert told[name] == pytest.approx(plain[name], rel=1e-4, abs=1e-5)


def test_what_annotators_are_divided_on_moves_the_policy_no_further_than_their_odds(
    base: Path, comparisons: DatasetDict, tmp_path: Path
) -> None:
    rows = comparisons["train"]
    divided = judged(rows, [1.0] * len(rows), [0.6] * len(rows))
    hard = curves(base, divided, tmp_path / "hard", max_steps=12)
    soft = curves(base, divided, tmp_path / "soft", max_steps=12, soft_labels=True)
    assert hard["dpo/rewards/margins"][-1] > 1.0
    assert soft["dpo/rewards/margins"][-1] < 0.8  # log(0.6 / 0.4) is 0.41


def test_pairs_of_weight_zero_are_not_learnt(base: Path, comparisons: DatasetDict, tmp_path: Path) -> None:
    rows = comparisons["train"]
    half = len(rows) // 2
    turned = Dataset.from_list(
        [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows.select(range(half))]
    )
    mixed = concatenate_datasets([rows.select_columns(turned.column_names), turned])
    weighed = judged(mixed, [1.0] * len(rows) + [0.0] * half, [1.0] * len(mixed))
    told = curves(base, weighed, tmp_path / "told", max_steps=10, use_weights=True)
    plain = curves(base, weighed, tmp_path / "plain", max_steps=10)
    # Two in three say one thing and one in three the opposite: heard alone, the two go much further.
    spread = [max(map(abs, curve["dpo/rewards/margins"])) for curve in (told, plain)]
    assert spread[0] > 2 * spread[1]
    nothing = judged(rows, [0.0] * len(rows), [1.0] * len(rows))
    with pytest.raises(DataError, match="weight 0"):
        train(base, nothing, tmp_path / "nothing", "dpo", use_weights=True)
    with pytest.raises(ValueError, match="belong to the loss sigmoid"):
        DPOSettings(loss="ipo", use_weights=True)


def test_only_the_chosen_fold_is_learnt_from(base: Path, comparisons: DatasetDict, tmp_path: Path) -> None:
    rows = comparisons["train"]
    with pytest.raises(DataError, match="no training comparisons in fold 7, which dpo learns from"):
        train(base, rows, tmp_path / "none", "dpo", fold=7)
    spoilt = rows.map(lambda row: {"chosen": [] if row["fold"] else row["chosen"]})
    train(base, spoilt, tmp_path / "zero", "dpo", max_steps=1, fold=0)
    with pytest.raises(DataError, match="must be one assistant turn"):
        train(base, spoilt, tmp_path / "all", "dpo", max_steps=1, fold=None)


def test_without_comparisons_the_way_out_is_named(base: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="choose ppo, rloo or grpo"):
        train(base, Dataset.from_dict({}), tmp_path / "out", "dpo")


def test_rows_hold_the_ids_that_are_scored_and_rolled_out(base: Path) -> None:
    tokenizer = load_tokenizer(base)
    rows = comparison_rows(0, 3)
    paired = encode_paired(rows, tokenizer, max_length=128).dataset
    unpaired = encode_unpaired(rows, tokenizer, max_length=128).dataset
    assert unpaired["label"][:] == [True, False] * 3
    for index, row in enumerate(rows):
        for side, other in (("chosen", 0), ("rejected", 1)):
            expected = encode_conversation(tokenizer, row["prompt"], row[side][0]["content"])
            assert paired[index]["prompt_ids"] + paired[index][f"{side}_ids"] == expected
            single = unpaired[2 * index + other]
            assert single["prompt_ids"] + single["completion_ids"] == expected


def test_rows_over_the_limit_are_left_out_and_counted(base: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(base)
    rows = comparison_rows(0, 4)
    longest = max(len(ids) for ids in encode_unpaired(rows, tokenizer, max_length=128).dataset["prompt_ids"])
    assert encode_paired(rows, tokenizer, max_length=longest).dropped == 4
    with pytest.raises(DataError, match=r"longer than kto\.max_length"):
        train(base, rows, tmp_path / "out", "kto", max_length=8, fold=None)
    with pytest.raises(ConfigError, match="128 positions"):
        train(base, rows, tmp_path / "out", "dpo", max_length=4000, fold=None)


def test_mismatched_completions_are_those_of_the_batch() -> None:
    rows = [{"prompt_ids": [1], "completion_ids": [10 + i, 2], "label": True} for i in range(3)]
    batch = MismatchingCollator(pad_token_id=0)(rows)
    assert batch["KL_input_ids"].tolist() == [[1, 12, 2], [1, 10, 2], [1, 11, 2]]
    assert batch["input_ids"].tolist() == [[1, 10, 2], [1, 11, 2], [1, 12, 2]]
