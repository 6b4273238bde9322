"""What is new in the comparisons and prompts since a champion was trained, as figures for the decision."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from rlhf.feedback.rows import Message, prompt_hash, sha256_of
from rlhf.retraining.drift import Drift, ks_drift, psi_drift
from rlhf.retraining.settings import RetrainingSettings

Scorer = Callable[[Sequence[Sequence[Message]], Sequence[str]], Sequence[float]]
"""Rewards of (prompt, answer) pairs."""


@dataclass(frozen=True)
class NewFeedback:
    """What a training run would learn from that none has learnt from yet."""

    pairs: int
    """New comparisons of the training split."""
    effective: float
    """The sum of their confidences."""
    prompts: int
    drifts: tuple[Drift, ...] = ()


def new_feedback(
    comparisons: pa.Table,
    prompts: pa.Table,
    *,
    champion_comparisons: pa.Table,
    champion_prompts: pa.Table,
    other_comparisons: Sequence[pa.Table],
    settings: RetrainingSettings,
    score: Scorer | None = None,
) -> NewFeedback:
    """Compare the present training split with the one that the champion was trained on.

    Args:
        comparisons: columns of ``COMPARISONS_SCHEMA``; ``prompts`` those of ``PROMPTS_SCHEMA``.
        champion_comparisons: the champion's, from which drift is measured; likewise the prompts.
        other_comparisons: of runs after the champion's, whose pairs are not new either.
        score: the champion's proxy reward, for ``maximum_reward_ks_p``.
    """
    seen = {key for table in (champion_comparisons, *other_comparisons) for key, _ in _keyed(table)}
    fresh = [row for key, row in _keyed(comparisons) if key not in seen]
    known = {prompt_hash(row["prompt"]) for row in champion_prompts.to_pylist()}
    before = [_text(row["prompt"]) for row in champion_prompts.to_pylist()[: settings.drift_sample]]
    new_prompts = [row["prompt"] for row in prompts.to_pylist() if prompt_hash(row["prompt"]) not in known]
    after = [_text(prompt) for prompt in new_prompts[: settings.drift_sample]]
    drifts = []
    if len(after) >= settings.minimum_drift_rows and len(before) >= settings.minimum_drift_rows:
        if settings.maximum_prompt_psi is not None:
            drifts.append(psi_drift("PSI of the prompts' words", before, after, settings.maximum_prompt_psi))
        if settings.maximum_length_ks_p is not None:
            old, new = ([float(len(text.split())) for text in side] for side in (before, after))
            drifts.append(ks_drift("KS of the prompts' lengths", old, new, settings.maximum_length_ks_p))
    if score is not None and settings.maximum_reward_ks_p is not None:
        sides = [champion_comparisons.to_pylist()[: settings.drift_sample], fresh[: settings.drift_sample]]
        if min(map(len, sides)) >= settings.minimum_drift_rows:
            old, new = ([float(reward) for reward in score(*_asked(side))] for side in sides)
            drifts.append(ks_drift("KS of chosen answers' rewards", old, new, settings.maximum_reward_ks_p))
    effective = sum(2.0 * float(row["agreement"]) - 1.0 for row in fresh)
    return NewFeedback(len(fresh), effective, len(new_prompts), tuple(drifts))


def _keyed(comparisons: pa.Table) -> Iterable[tuple[str, dict]]:
    """Rows by what was judged and how: a pair whose majority turned is new."""
    for row in comparisons.to_pylist():
        yield sha256_of([prompt_hash(row["prompt"]), row["chosen"], row["rejected"]]), row


def _asked(rows: Sequence[dict]) -> tuple[list[Sequence[Message]], list[str]]:
    """Prompts and chosen answers of comparisons."""
    return [row["prompt"] for row in rows], [row["chosen"][0]["content"] for row in rows]


def _text(prompt: Sequence[Message]) -> str:
    return "\n".join(message["content"] for message in prompt)
