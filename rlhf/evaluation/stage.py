"""Evaluation as a stage: sealed directories, a dataset of prompts and PPO's frontier in, the report out.

What is measured is decided in ``rlhf.evaluation.policy``; here the rewards get their names and the dev
samples of training are scored by the rewards that training did not have.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import AutoConfig

from rlhf.errors import DataError
from rlhf.evaluation.frontier import frontier_from_samples
from rlhf.evaluation.intervals import wilson_interval
from rlhf.evaluation.policy import PolicyEvaluationResult, evaluate_policy
from rlhf.evaluation.reward_model_report import RewardModelEvidence, examine_reward_model
from rlhf.evaluation.scoring import Scores
from rlhf.evaluation.settings import EvaluationSettings
from rlhf.evaluation.suites.run import with_suites
from rlhf.models.chat import encode_completion, encode_prompt
from rlhf.models.directory import open_directory
from rlhf.models.loading import load_tokenizer
from rlhf.models.reward_classifiers import RewardModelReward
from rlhf.models.reward_protocol import Reward
from rlhf.models.rewards import FunctionReward
from rlhf.tracking import MetricSink

logger = logging.getLogger(__name__)


def evaluate(
    *,
    policy: Path,
    sft: Path,
    champion: Path | None,
    proxy: Path,
    selection: Path,
    judge: Path,
    prompts: Dataset,
    comparisons: Dataset,
    demonstrations: Dataset,
    frontier: Dataset,
    settings: EvaluationSettings,
    seed: int,
    sink: MetricSink,
) -> PolicyEvaluationResult:
    """Compare the models on held-out prompts by proxy, selection model, judge and the settings' further
    rewards.

    Neither training nor the choice of checkpoints saw the judge, nor do they see the further rewards: these
    score the dev samples that training kept only here.

    Raises:
        DataError: no held-out prompts.
        EvaluationError: see :func:`evaluate_policy`.
    """
    if not len(prompts):
        raise DataError("No prompts in the test split; add feedback or raise datasets.test_fraction.")
    further: dict[str, Reward] = {name: FunctionReward(source) for name, source in settings.rewards.items()}
    models = {"proxy": proxy, "selection": selection, "judge": judge}
    rewards: dict[str, Reward] = {
        **{name: RewardModelReward(path) for name, path in models.items()},
        **further,
    }
    comparisons = _first(comparisons, settings.max_comparisons)
    gaps = {name: reward_gaps(reward, comparisons) for name, reward in rewards.items()}
    agreement = {
        f"eval/{name}/agreement_with_{other}{end}": value
        for name in models
        for other in further
        for end, value in pair_agreement(gaps[name], gaps[other], settings).items()
    }
    examined = {
        name: _examined(path, gaps[name], comparisons, settings)
        for name, path in models.items()
        if len(comparisons)
    }
    fitting, shown = prompts, _first(demonstrations, settings.max_demonstrations)
    for model in (sft, champion):
        if model is not None:  # the champion may have fewer positions, or a tokenizer that needs more of them
            fitting = prompts_that_fit(fitting, model, settings.generation.max_new_tokens)
            shown = demonstrations_that_fit(shown, model)
    chosen = _first(fitting, settings.max_prompts)
    seeded = settings.model_copy(update={"seed": settings.seed + seed})
    later: dict[str, Reward] = {"judge": rewards["judge"], **further}
    maximised = "proxy"
    if "reward" in open_directory(policy).training:  # it was trained on another reward than the proxy
        maximised, later = "maximised", {"proxy": rewards["proxy"], **later}
        if seeded.optimised_reward == "proxy":
            seeded = seeded.model_copy(update={"optimised_reward": maximised})
    result = evaluate_policy(
        policy,
        sft,
        chosen["prompt"],
        rewards,
        seeded,
        champion=champion,
        demonstrations=[(row["prompt"], row["completion"][0]["content"]) for row in shown],
        reward_models=examined,
        frontier=frontier_from_samples(frontier, later, maximised=maximised),
        record_ids=chosen["record_id"],
        sink=sink,
    )
    result = with_suites(result, seeded, policy=policy, sft=sft, champion=champion, sink=sink)
    metrics = {**result.metrics, **agreement}
    undefined = sorted(name for name, value in metrics.items() if not np.isfinite(value))
    if undefined:
        logger.warning("Figures that cannot be computed here and are left out: %s.", ", ".join(undefined))
    metrics = {name: value for name, value in metrics.items() if name not in undefined}
    data = _without_undefined({**result.report.data, "metrics": metrics})
    return replace(result, metrics=metrics, report=replace(result.report, data=data))


def _without_undefined(value: Any) -> Any:
    """The same with ``None`` for each NaN and infinity, which JSON does not know."""
    if isinstance(value, Mapping):
        return {name: _without_undefined(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_undefined(inner) for inner in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def reward_gaps(reward: Reward, comparisons: Dataset) -> Scores:
    """Reward of the chosen less that of the rejected answer of each pair, shape (pairs,)."""
    if not len(comparisons):
        return np.empty(0)
    prompts = list(comparisons["prompt"])
    chosen, rejected = (
        np.asarray(reward(prompts, [turns[0]["content"] for turns in comparisons[side]]), dtype=np.float64)
        for side in ("chosen", "rejected")
    )
    return chosen - rejected


def pair_agreement(gaps: Scores, others: Scores, settings: EvaluationSettings) -> dict[str, float]:
    """Share of pairs that two rewards rank alike, pairs on which the second one ties left out.

    Args:
        gaps: :func:`reward_gaps` of the one, shape (pairs,); ``others`` those of the other.

    Returns:
        The share under ``""`` and its Wilson interval under ``_low`` and ``_high``; nothing without
        pairs.
    """
    decided = np.abs(others) > settings.tie_tolerance
    total = int(decided.sum())
    if not total:
        return {}
    alike = int((np.sign(gaps) == np.sign(others))[decided].sum())
    interval = wilson_interval(alike, total, settings.confidence)
    return {"": alike / total, "_low": interval.low, "_high": interval.high}


def prompts_that_fit(prompts: Dataset, model: Path, new_tokens: int) -> Dataset:
    """The prompts that leave room for an answer within the model's positions; the others are logged.

    Raises:
        DataError: none does.
    """
    limit = _positions(model)
    if limit is None:
        return prompts
    tokenizer = load_tokenizer(model)
    fitting = [
        index
        for index, prompt in enumerate(prompts["prompt"])
        if len(encode_prompt(tokenizer, prompt)) + new_tokens <= limit
    ]
    if not fitting:
        raise DataError(
            f"No test prompt leaves room for {new_tokens} tokens of answer within {limit} positions; "
            "lower evaluation.generation.max_new_tokens."
        )
    if len(fitting) < len(prompts):
        logger.warning(
            "%d of %d test prompts are too long for the model and are left out.",
            len(prompts) - len(fitting),
            len(prompts),
        )
    return prompts.select(fitting)


def demonstrations_that_fit(demonstrations: Dataset, model: Path) -> Dataset:
    """The demonstrations that are no longer than the model's positions; the others are logged."""
    limit = _positions(model)
    if limit is None or not len(demonstrations):
        return demonstrations
    tokenizer = load_tokenizer(model)
    fitting = [
        index
        for index, row in enumerate(demonstrations)
        if len(encode_prompt(tokenizer, row["prompt"]))
        + len(encode_completion(tokenizer, row["completion"][0]["content"]))
        <= limit
    ]
    if len(fitting) < len(demonstrations):
        logger.warning(
            "%d of %d test demonstrations are too long for the model and have no part in its perplexity.",
            len(demonstrations) - len(fitting),
            len(demonstrations),
        )
    return demonstrations.select(fitting)


def _first(rows: Dataset, most: int | None) -> Dataset:
    return rows if most is None else rows.select(range(min(len(rows), most)))


def _positions(model: Path) -> int | None:
    return getattr(AutoConfig.from_pretrained(model), "max_position_embeddings", None)


def _examined(
    path: Path, gaps: Scores, comparisons: Dataset, settings: EvaluationSettings
) -> RewardModelEvidence:
    directory = open_directory(path)
    trained = directory.training.get("reward_model", {})
    return examine_reward_model(
        gaps,
        comparisons,
        confidence=settings.confidence,
        seed=settings.seed,
        log_odds=trained.get("objective") == "pairwise",
        bag_of_words=directory.metrics.get("test/bag_of_words_accuracy"),
    )
