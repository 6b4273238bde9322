"""Evaluation as a stage: sealed directories, a dataset of prompts and PPO's frontier in, the report out.

What is measured is decided in ``rlhf.evaluation.policy``; here the rewards get their names and the dev
samples of training are scored by the rewards that training did not have.
"""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import AutoConfig

from rlhf.errors import DataError
from rlhf.evaluation.frontier import frontier_from_samples
from rlhf.evaluation.intervals import wilson_interval
from rlhf.evaluation.policy import PolicyEvaluationResult, evaluate_policy
from rlhf.evaluation.settings import EvaluationSettings
from rlhf.evaluation.suites.run import with_suites
from rlhf.models.chat import encode_prompt
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
    prompts: Dataset,
    comparisons: Dataset,
    frontier: Dataset,
    settings: EvaluationSettings,
    seed: int,
    sink: MetricSink,
) -> PolicyEvaluationResult:
    """Compare the models on held-out prompts by proxy, selection model and the settings' further rewards.

    Raises:
        DataError: no held-out prompts.
        EvaluationError: see :func:`evaluate_policy`.
    """
    if not len(prompts):
        raise DataError("No prompts in the test split; add feedback or raise datasets.test_fraction.")
    further: dict[str, Reward] = {name: FunctionReward(source) for name, source in settings.rewards.items()}
    rewards: dict[str, Reward] = {
        "proxy": RewardModelReward(proxy),
        "selection": RewardModelReward(selection),
        **further,
    }
    agreement = {
        f"eval/{name}/agreement_with_{other}{end}": value
        for name in ("proxy", "selection")
        for other in further
        for end, value in pair_agreement(rewards[name], further[other], comparisons, settings).items()
    }
    fitting = prompts
    for model in (sft, champion):
        if model is not None:  # the champion may have fewer positions, or a tokenizer that needs more of them
            fitting = prompts_that_fit(fitting, model, settings.generation.max_new_tokens)
    chosen = fitting.select(range(min(len(fitting), settings.max_prompts or len(fitting))))
    result = evaluate_policy(
        policy,
        sft,
        chosen["prompt"],
        rewards,
        settings.model_copy(update={"seed": settings.seed + seed}),
        champion=champion,
        frontier=frontier_from_samples(frontier, further),
        record_ids=chosen["record_id"],
        sink=sink,
    )
    seeded = settings.model_copy(update={"seed": settings.seed + seed})
    result = with_suites(result, seeded, policy=policy, sft=sft, champion=champion, sink=sink)
    metrics = {**result.metrics, **agreement}
    report = replace(result.report, data={**result.report.data, "metrics": metrics})
    return replace(result, metrics=metrics, report=report)


def pair_agreement(
    reward: Reward, other: Reward, comparisons: Dataset, settings: EvaluationSettings
) -> dict[str, float]:
    """Share of pairs that two rewards rank alike, pairs on which the second one ties left out.

    Returns:
        The share under ``""`` and its Wilson interval under ``_low`` and ``_high``; nothing without
        pairs.
    """
    prompts = list(comparisons["prompt"])
    sides = [[turns[0]["content"] for turns in comparisons[side]] for side in ("chosen", "rejected")]
    differences = [
        np.subtract(scorer(prompts, sides[0]), scorer(prompts, sides[1])) for scorer in (reward, other)
    ]
    decided = np.abs(differences[1]) > settings.tie_tolerance
    total = int(decided.sum())
    if not total:
        return {}
    alike = int((np.sign(differences[0]) == np.sign(differences[1]))[decided].sum())
    interval = wilson_interval(alike, total, settings.confidence)
    return {"": alike / total, "_low": interval.low, "_high": interval.high}


def prompts_that_fit(prompts: Dataset, model: Path, new_tokens: int) -> Dataset:
    """The prompts that leave room for an answer within the model's positions; the others are logged.

    Raises:
        DataError: none does.
    """
    limit = getattr(AutoConfig.from_pretrained(model), "max_position_embeddings", None)
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
