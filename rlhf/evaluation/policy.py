"""Evaluation of a policy: it, the SFT model it came from and the champion answer the same held-out prompts.

All models see the same random numbers, all answers are judged by the same rewards, and every figure has an
interval over prompts. It trains nothing, and whether the figures suffice for promotion is the gate's to say.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.errors import EvaluationError, ModelError
from rlhf.evaluation.evidence import (
    Baseline,
    Behaviour,
    PolicyEvidence,
    PromptEvidence,
    Role,
    check_reward_names,
    flat_metrics,
)
from rlhf.evaluation.frontier import FrontierPoint, find_overoptimisation
from rlhf.evaluation.language import distinct_n, language_match, length_histogram, repetition
from rlhf.evaluation.policy_report import policy_report
from rlhf.evaluation.reward_model_report import RewardModelEvidence
from rlhf.evaluation.samples import choose_samples
from rlhf.evaluation.scoring import Scores, prompt_clusters, score_answers
from rlhf.evaluation.settings import EvaluationSettings
from rlhf.evaluation.win_rate import (
    Clusters,
    Comparison,
    Estimate,
    compare,
    mean_estimate,
    prompt_means,
    ratio_estimate,
)
from rlhf.models.chat import Prompt, encode_completion, encode_prompt
from rlhf.models.generation import Completion, generate
from rlhf.models.loading import load_policy, load_tokenizer
from rlhf.models.log_probs import completion_log_probs
from rlhf.models.reward_protocol import Reward
from rlhf.models.threads import choose_threads, intra_op_threads
from rlhf.report import Report
from rlhf.tracking import MetricSink, NullSink

logger = logging.getLogger(__name__)


Demonstration = tuple[Prompt, str]
"""A prompt and the completion that a person wrote for it."""


@dataclass(frozen=True)
class PolicyEvaluationResult:
    """What an evaluation found."""

    report: Report
    """For people, with every figure in its ``data``."""
    metrics: dict[str, float]
    """Flat figures such as ``eval/gold/win_rate_vs_sft_low``: what the gate reads."""
    samples: list[dict[str, Any]]
    """One row per prompt and sample: ``record_id``, ``prompt``, ``sample``, and for each model
    ``<model>_completion``, ``<model>_tokens``, ``<model>_finished`` and ``<model>_<reward>``."""


@dataclass(frozen=True)
class _Questions:
    """The prompts as they are asked: all prompts, then all again for each further sample."""

    prompts: list[Prompt]
    record_ids: list[str]
    sample: list[int]
    clusters: Clusters


def evaluate_policy(
    policy: Path,
    sft: Path,
    prompts: Sequence[Prompt],
    rewards: Mapping[str, Reward],
    settings: EvaluationSettings,
    *,
    champion: Path | None = None,
    demonstrations: Sequence[Demonstration] = (),
    reward_models: Mapping[str, RewardModelEvidence] | None = None,
    frontier: Sequence[FrontierPoint] = (),
    record_ids: Sequence[str] | None = None,
    sink: MetricSink | None = None,
) -> PolicyEvaluationResult:
    """Compare a policy with its SFT model and, if there is one, with the champion.

    One model is in memory at a time, besides the rewards' own.

    Args:
        policy: model directory; an adapter is taken to be one on ``sft``.
        prompts: held out from all training, tuning and checkpoint selection.
        rewards: judges by name, such as ``proxy``, ``selection``, ``judge`` and a simulated truth ``gold``.
        demonstrations: held-out prompts and their completions that fit all models' positions, for the
            perplexity.
        reward_models: what is known of the reward models among the judges, for the report.
        frontier: the evaluations of the training run, for the report.
        record_ids: one name per prompt for samples and errors; positions by default.
        sink: receives progress; logging the result is the caller's.

    Raises:
        EvaluationError: fewer than two distinct prompts, a reward that is not finite, a name that is not
            known.
        ModelError: a model is absent, or policy and SFT model have different vocabularies, where the KL
            between them has no meaning.
    """
    sink = sink or NullSink()
    questions = _questions(prompts, record_ids, settings)
    check_reward_names(list(rewards))
    judging = _judging_reward(list(rewards), settings)
    paths: dict[Role, Path] = {"policy": policy, "sft": sft}
    if champion is not None:
        paths["champion"] = champion
    total = len(paths) + 1 + len(rewards)

    answers: dict[Role, list[Completion]] = {}
    log_ratios: Scores = np.empty(0)
    kl_samples: list[Completion] = []
    vocabulary: dict[str, int] = {}
    own: list[torch.Tensor] = []
    perplexities: dict[Role, Estimate | None] = {}
    for done, (role, path) in enumerate(paths.items()):
        sink.progress(done, total, f"{role} answers {len(questions.prompts)} prompts")
        tokenizer = load_tokenizer(path, key=f"evaluation: {role}")
        with _loaded(path, role, base=sft) as model:
            answers[role] = _answer(model, tokenizer, questions, settings)
            perplexities[role] = _perplexity(model, tokenizer, demonstrations, settings)
            if role == "policy":
                vocabulary = tokenizer.get_vocab()
                kl_samples = _kl_samples(model, tokenizer, questions, settings, answers[role])
                own = _log_probs(model, kl_samples, settings)
            elif role == "sft":
                if tokenizer.get_vocab() != vocabulary:
                    raise ModelError(
                        f"The policy {policy} and the SFT model {sft} have different vocabularies, so there "
                        "is no KL between them; give the SFT model that the policy was trained from."
                    )
                reference = _log_probs(model, kl_samples, settings)
                log_ratios = np.array(
                    [float((p - q).double().sum()) for p, q in zip(own, reference, strict=True)]
                )

    scores = _score(rewards, questions, answers, sink, done=len(paths), total=total)
    sink.progress(total - 1, total, "intervals and report")
    kl, kl_per_token = _kl(log_ratios, kl_samples, questions, settings)
    rows = _rows(questions, answers, scores)
    difference = scores[judging]["policy"] - scores[judging]["sft"]
    evidence = PolicyEvidence(
        settings=settings,
        prompts=int(questions.clusters.max()) + 1,
        by_prompt=_by_prompt(questions, answers, scores),
        means={
            name: {role: _mean(values, questions, settings) for role, values in by_role.items()}
            for name, by_role in scores.items()
        },
        comparisons={
            name: _comparisons(by_role, answers, questions, settings) for name, by_role in scores.items()
        },
        kl=kl,
        kl_per_token=kl_per_token,
        behaviour={
            role: _behaviour(given, perplexities[role], questions, settings)
            for role, given in answers.items()
        },
        lengths=length_histogram(
            {role: [len(c.token_ids) for c in given] for role, given in answers.items()}
        ),
        reward_models=reward_models or {},
        frontier=tuple(frontier),
        overoptimisation=find_overoptimisation(frontier, settings.optimised_reward),
        shown=[
            {"why": why, **rows[position]}
            for position, why in choose_samples(difference, settings.samples_shown, seed=settings.seed)
        ],
    )
    metrics = flat_metrics(evidence)
    report = policy_report(evidence)
    sink.progress(total, total, "evaluated")
    return PolicyEvaluationResult(report=report, metrics=metrics, samples=rows)


def _questions(
    prompts: Sequence[Prompt], record_ids: Sequence[str] | None, settings: EvaluationSettings
) -> _Questions:
    names = [str(i) for i in range(len(prompts))] if record_ids is None else list(record_ids)
    if len(names) != len(prompts):
        raise EvaluationError(
            f"There are {len(names)} record ids for {len(prompts)} prompts; give one for each."
        )
    repeats = settings.samples_per_prompt
    clusters = np.tile(prompt_clusters(prompts), repeats)
    distinct = len(set(clusters.tolist()))
    if distinct < 2:
        raise EvaluationError(
            f"An evaluation needs at least two distinct held-out prompts, not {distinct}; "
            "add prompts to the split."
        )
    return _Questions(
        prompts=list(prompts) * repeats,
        record_ids=names * repeats,
        sample=[k for k in range(repeats) for _ in prompts],
        clusters=clusters,
    )


def _judging_reward(names: Sequence[str], settings: EvaluationSettings) -> str:
    if settings.judging_reward is None:
        return next((name for name in ("gold", "judge", "selection") if name in names), names[0])
    if settings.judging_reward not in names:
        raise EvaluationError(
            f"evaluation.judging_reward is {settings.judging_reward!r}, but the rewards are "
            f"{', '.join(names)}; name one of these."
        )
    return settings.judging_reward


@contextmanager
def _loaded(path: Path, role: Role, *, base: Path) -> Iterator[PreTrainedModel]:
    model = load_policy(
        path,
        base=base if role == "policy" else None,
        key=f"evaluation: {role}",
        device_map="cuda" if torch.cuda.is_available() else None,
    )
    logger.info("Evaluating %s (%s).", role, path.name)
    with intra_op_threads(choose_threads(model.num_parameters())):
        yield model


def _answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: _Questions,
    settings: EvaluationSettings,
) -> list[Completion]:
    return generate(
        model,
        tokenizer,
        questions.prompts,
        settings.generation,
        seed=settings.seed,
        batch_size=settings.batch_size,
    )


def _kl_samples(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: _Questions,
    settings: EvaluationSettings,
    answers: list[Completion],
) -> list[Completion]:
    """The KL is an expectation under the policy itself: answers drawn in any other way would bias it."""
    itself = settings.generation.model_copy(update={"temperature": 1.0, "top_k": 0, "top_p": 1.0})
    if itself == settings.generation:
        return answers
    return _answer(model, tokenizer, questions, settings.model_copy(update={"generation": itself}))


def _log_probs(
    model: PreTrainedModel, samples: Sequence[Completion], settings: EvaluationSettings
) -> list[torch.Tensor]:
    pairs = [(c.prompt_ids, c.token_ids) for c in samples]
    return [t.cpu() for t in completion_log_probs(model, pairs, token_budget=settings.token_budget)]


def _kl(
    log_ratios: Scores, samples: Sequence[Completion], questions: _Questions, settings: EvaluationSettings
) -> tuple[Estimate, Estimate]:
    """KL(policy‖SFT) per sequence and per token: the mean of ``log π(y|x) − log π_SFT(y|x)`` over the
    policy's own samples, which is unbiased (and so may be slightly negative)."""
    tokens = np.array([len(c.token_ids) for c in samples], dtype=np.float64)
    per_token = ratio_estimate(
        log_ratios, tokens, questions.clusters, confidence=settings.confidence, seed=settings.seed
    )
    return _mean(log_ratios, questions, settings), per_token


def _score(
    rewards: Mapping[str, Reward],
    questions: _Questions,
    answers: Mapping[Role, Sequence[Completion]],
    sink: MetricSink,
    *,
    done: int,
    total: int,
) -> dict[str, dict[Role, Scores]]:
    """Scores ``[answers]`` by reward name and model; each reward sees all models' answers in one call."""
    count = len(questions.prompts)
    texts = [c.text for given in answers.values() for c in given]
    scores: dict[str, dict[Role, Scores]] = {}
    for position, (name, reward) in enumerate(rewards.items()):
        sink.progress(done + position, total, f"{name} scores {len(texts)} answers")
        flat = score_answers(
            name, reward, questions.prompts * len(answers), texts, questions.record_ids * len(answers)
        )
        scores[name] = {role: flat[i * count : (i + 1) * count] for i, role in enumerate(answers)}
    return scores


def _mean(values: Scores, questions: _Questions, settings: EvaluationSettings) -> Estimate:
    return mean_estimate(values, questions.clusters, confidence=settings.confidence, seed=settings.seed)


def _by_prompt(
    questions: _Questions,
    answers: Mapping[Role, Sequence[Completion]],
    scores: Mapping[str, Mapping[Role, Scores]],
) -> PromptEvidence:
    def means(values: Scores) -> list[float]:
        return prompt_means(values, questions.clusters).tolist()

    _, first = np.unique(questions.clusters, return_index=True)
    return PromptEvidence(
        record_ids=[questions.record_ids[position] for position in first],
        scores={
            name: {role: means(values) for role, values in by_role.items()}
            for name, by_role in scores.items()
        },
        tokens={
            role: means(np.array([len(c.token_ids) for c in given], dtype=np.float64))
            for role, given in answers.items()
        },
    )


def _comparisons(
    by_role: Mapping[Role, Scores],
    answers: Mapping[Role, Sequence[Completion]],
    questions: _Questions,
    settings: EvaluationSettings,
) -> dict[Baseline, Comparison]:
    baselines: tuple[Baseline, ...] = ("sft", "champion")
    # In characters, since models may have different tokens.
    lengths = {role: np.array([len(c.text) for c in given], np.float64) for role, given in answers.items()}
    return {
        baseline: compare(
            by_role["policy"],
            by_role[baseline],
            questions.clusters,
            length_differences=lengths["policy"] - lengths[baseline],
            tolerance=settings.tie_tolerance,
            confidence=settings.confidence,
            seed=settings.seed,
        )
        for baseline in baselines
        if baseline in by_role
    }


def _perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    demonstrations: Sequence[Demonstration],
    settings: EvaluationSettings,
) -> Estimate | None:
    """exp of the nats per token of the completions, EOS included; ``None`` with fewer than two prompts."""
    clusters = prompt_clusters([prompt for prompt, _ in demonstrations])
    if len(set(clusters.tolist())) < 2:
        return None
    pairs = [
        (encode_prompt(tokenizer, prompt), encode_completion(tokenizer, completion))
        for prompt, completion in demonstrations
    ]
    log_probs = completion_log_probs(model, pairs, token_budget=settings.token_budget)
    loss = ratio_estimate(
        np.array([-float(values.double().sum()) for values in log_probs]),
        np.array([len(ids) for _, ids in pairs], dtype=np.float64),
        clusters,
        confidence=settings.confidence,
        seed=settings.seed,
    )
    return Estimate(*(float(np.exp(nats)) for nats in (loss.value, loss.low, loss.high)))


def _behaviour(
    completions: Sequence[Completion],
    perplexity: Estimate | None,
    questions: _Questions,
    settings: EvaluationSettings,
) -> Behaviour:
    words = [c.token_ids[:-1] if c.finished else c.token_ids for c in completions]
    lengths = np.array([len(c.token_ids) for c in completions], dtype=np.float64)
    match = language_match(questions.prompts, [c.text for c in completions])
    return Behaviour(
        length=_mean(lengths, questions, settings),
        truncated_share=float(np.mean([not c.finished for c in completions])),
        distinct_1=distinct_n(words, 1),
        distinct_2=distinct_n(words, 2),
        repetition_4=_mean(np.array([repetition(ids) for ids in words]), questions, settings),
        prompt_language_share=match.alike / match.decided if match.decided else None,
        language_decided=match.decided,
        perplexity=perplexity,
    )


def _rows(
    questions: _Questions,
    answers: Mapping[Role, Sequence[Completion]],
    scores: Mapping[str, Mapping[Role, Scores]],
) -> list[dict[str, Any]]:
    rows = []
    for i, prompt in enumerate(questions.prompts):
        row: dict[str, Any] = {
            "record_id": questions.record_ids[i],
            "prompt": prompt if isinstance(prompt, str) else [dict(message) for message in prompt],
            "sample": questions.sample[i],
        }
        for role, completions in answers.items():
            row[f"{role}_completion"] = completions[i].text
            row[f"{role}_tokens"] = len(completions[i].token_ids)
            row[f"{role}_finished"] = completions[i].finished
            row |= {f"{role}_{name}": float(by_role[role][i]) for name, by_role in scores.items()}
        rows.append(row)
    return rows
