"""Sentences about what counts as new, and as drift."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from rlhf.feedback.views import COMPARISONS_SCHEMA, PROMPTS_SCHEMA
from rlhf.retraining.drift import ks_drift, word_psi
from rlhf.retraining.evidence import NewFeedback, new_feedback
from rlhf.retraining.settings import RetrainingSettings

SETTINGS = RetrainingSettings(minimum_drift_rows=10)


def _pair(name: str, *, chosen: str = "a", rejected: str = "b", agreement: float = 1.0) -> dict[str, Any]:
    said = [{"role": "assistant", "content": text} for text in (chosen, rejected)]
    return {
        **{"prompt": _user(name), "chosen": said[:1], "rejected": said[1:], "weight": 1.0, "margin": 0.0},
        **{"agreement": agreement, "fold": 0, "record_id": name},
    }


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _new(now: list[dict[str, Any]], before: list[dict[str, Any]], **options: Any) -> NewFeedback:
    def tables(rows: list[dict[str, Any]]) -> tuple[pa.Table, pa.Table]:
        prompts = [{"prompt": row["prompt"], "record_id": row["record_id"]} for row in rows]
        return pa.Table.from_pylist(rows, COMPARISONS_SCHEMA), pa.Table.from_pylist(prompts, PROMPTS_SCHEMA)

    comparisons, prompts = tables(now)
    champion_comparisons, champion_prompts = tables(before)
    others = [tables(rows)[0] for rows in options.pop("others", [])]
    return new_feedback(
        comparisons,
        prompts,
        champion_comparisons=champion_comparisons,
        champion_prompts=champion_prompts,
        other_comparisons=others,
        settings=options.pop("settings", SETTINGS),
        **options,
    )


def test_a_pair_counts_by_its_agreement_and_only_once_whatever_run_saw_it() -> None:
    old, seen, unsure = _pair("old"), _pair("seen"), _pair("new", agreement=2 / 3)
    found = _new([old, seen, unsure], [old], others=[[seen]])
    assert found.pairs == 1
    assert found.effective == pytest.approx(1 / 3)


def test_a_pair_whose_majority_turned_is_new() -> None:
    found = _new([_pair("x", chosen="b", rejected="a")], [_pair("x")])
    assert (found.pairs, found.prompts) == (1, 0)


def test_the_same_phrasing_with_other_numbers_is_no_drift_and_another_topic_is() -> None:
    before = [_pair(f"where is my order {n}") for n in range(60)]
    like = [_pair(f"where is my order {n}") for n in range(100, 160)]
    other = [_pair(f"translate poem {n} into latin hexameters without rhyme please") for n in range(60)]
    assert not any(drift.drifted for drift in _new(before + like, before).drifts)
    assert all(drift.drifted for drift in _new(before + other, before).drifts)


def test_too_few_new_prompts_are_not_judged() -> None:
    before = [_pair(f"where is my order {n}") for n in range(60)]
    assert _new([*before, _pair("something else")], before).drifts == ()


def test_rewards_of_new_answers_are_compared_with_the_champions() -> None:
    settings = RetrainingSettings(minimum_drift_rows=10, maximum_reward_ks_p=0.001)
    before = [_pair(f"p{n}") for n in range(60)]
    fresh = [_pair(f"q{n}", chosen="a much longer answer") for n in range(60)]
    found = _new(
        before + fresh, before, settings=settings, score=lambda _, texts: [float(len(t)) for t in texts]
    )
    assert [d.statistic for d in found.drifts if "rewards" in d.name] == [1.0]


def test_ks_is_scipys() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=80), rng.normal(0.6, size=90)
    found = ks_drift("x", before, after, 0.05)
    expected = stats.ks_2samp(before, after)
    assert (found.statistic, found.p_value) == (expected.statistic, expected.pvalue)


def test_psi_of_a_shift_worked_out_by_hand() -> None:
    # bins "a", "b", others with half an occurrence added: (60.5, 40.5, 0.5) against (40.5, 60.5, 0.5)
    psi = word_psi(["a"] * 60 + ["b"] * 40, ["a"] * 40 + ["b"] * 60)
    assert psi == pytest.approx(2 * (20 / 101.5) * np.log(60.5 / 40.5))
