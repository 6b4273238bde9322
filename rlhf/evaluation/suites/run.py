"""The suites of an evaluation, from settings to figures: each model is loaded once and asked by all."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from rlhf.evaluation.evidence import Role
from rlhf.evaluation.policy import PolicyEvaluationResult
from rlhf.evaluation.settings import EvaluationSettings
from rlhf.evaluation.suites.bbq import BBQ
from rlhf.evaluation.suites.bold import BOLD
from rlhf.evaluation.suites.crows_pairs import CrowsPairs
from rlhf.evaluation.suites.figures import Estimator, SuiteResult
from rlhf.evaluation.suites.instructions import Instructions
from rlhf.evaluation.suites.llm_judge import LLMJudge
from rlhf.evaluation.suites.lm_eval import LMEval
from rlhf.evaluation.suites.report import suites_report
from rlhf.evaluation.suites.respondent import Respondent, respondent
from rlhf.evaluation.suites.scorers import Scorers
from rlhf.evaluation.suites.settings import SuitesSettings
from rlhf.evaluation.suites.toxicity import Toxicity
from rlhf.evaluation.suites.winogender import WinoGender
from rlhf.evaluation.suites.xstest import XSTest
from rlhf.report import appended
from rlhf.tracking import MetricSink, NullSink

logger = logging.getLogger(__name__)


class AskingSuite(Protocol):
    """A suite that asks the models; what a model said is the suite's own affair."""

    def ask(self, model: Respondent) -> Any:
        """What one model says, item by item."""
        ...

    def result(self, answers: Mapping[Role, Any], estimator: Estimator) -> SuiteResult:
        """The figures, from what all models said."""
        ...


class SampleSuite(Protocol):
    """A suite that judges answers which the evaluation has already."""

    def result_of_samples(
        self, samples: Sequence[Mapping[str, Any]], roles: Sequence[Role], estimator: Estimator
    ) -> SuiteResult:
        """The figures, from the evaluation's samples."""
        ...


def build_suites(
    settings: SuitesSettings, seed: int
) -> tuple[dict[str, AskingSuite], dict[str, SampleSuite]]:
    """The suites with their items, by name: those that ask, and those that judge answers at hand. What is
    wrong with a file, a task or an endpoint's key shows here, before any model is loaded.

    Raises:
        ConfigError: a package or an environment variable is absent, or a task unknown.
        DataError: a file is absent or not as its publishers have it.
    """
    scorers = Scorers(settings)
    asking: dict[str, AskingSuite] = {}
    judging: dict[str, SampleSuite] = {}
    if settings.crows_pairs:
        asking["crows_pairs"] = CrowsPairs(settings.crows_pairs, seed)
    if settings.winogender:
        asking["winogender"] = WinoGender(settings.winogender, seed)
    if settings.bbq:
        asking["bbq"] = BBQ(settings.bbq, seed)
    if settings.xstest:
        asking["xstest"] = XSTest(settings.xstest, seed)
    if settings.bold:
        asking["bold"] = BOLD(settings.bold, seed, scorers)
    if settings.toxicity:
        toxicity = Toxicity(settings.toxicity, seed, scorers)
        if settings.toxicity.files:
            asking["toxicity"] = toxicity
        else:
            judging["toxicity"] = toxicity
    if settings.instructions:
        asking["instructions"] = Instructions(settings.instructions, seed)
    if settings.llm_judge:
        judging["llm_judge"] = LLMJudge(settings.llm_judge, seed)
    if settings.lm_eval:
        asking["lm_eval"] = LMEval(settings.lm_eval, seed)
    return asking, judging


def run_suites(
    settings: EvaluationSettings,
    models: Mapping[Role, Path],
    samples: Sequence[Mapping[str, Any]],
    sink: MetricSink | None = None,
) -> list[SuiteResult]:
    """What every suite of ``settings.suites`` found, in the settings' order.

    Args:
        models: model directories; a policy that is an adapter is taken to be one on ``sft``.
        samples: the evaluation's own answers, rows of :class:`PolicyEvaluationResult`.

    Raises:
        ConfigError, DataError: see :func:`build_suites`.
        EvaluationError: too few items fit the models, or a judge cannot be believed.
        ModelError: a model is absent.
    """
    sink = sink or NullSink()
    asking, judging = build_suites(settings.suites, settings.seed)
    estimator = Estimator(settings.confidence, settings.seed)
    total = len(asking) * len(models) + len(asking) + len(judging)
    done = 0
    answers: dict[str, dict[Role, Any]] = {name: {} for name in asking}
    for role, path in models.items() if asking else ():
        with respondent(
            role,
            path,
            base=models["sft"],
            generation=settings.suites.generation or settings.generation,
            seed=settings.seed,
            batch_size=settings.batch_size,
            token_budget=settings.token_budget,
        ) as model:
            for name, suite in asking.items():
                sink.progress(done, total, f"{name} asks {role}")
                answers[name][role] = suite.ask(model)
                done += 1
    found: dict[str, SuiteResult] = {}
    for name, suite in asking.items():
        sink.progress(done, total, f"{name}: figures")
        found[name] = suite.result(answers[name], estimator)
        done += 1
    for name, judge in judging.items():
        sink.progress(done, total, f"{name} reads the answers")
        found[name] = judge.result_of_samples(samples, list(models), estimator)
        done += 1
    for result in found.values():
        if result.left_out:
            logger.warning("%s: %d items are left out.", result.suite, result.left_out)
    return [found[name] for name in settings.suites.chosen]


def with_suites(
    result: PolicyEvaluationResult,
    settings: EvaluationSettings,
    *,
    policy: Path,
    sft: Path,
    champion: Path | None,
    sink: MetricSink | None = None,
) -> PolicyEvaluationResult:
    """An evaluation's result with the figures and the section of its suites; unchanged without suites.

    Raises:
        RLHFError: see :func:`run_suites`.
    """
    if not settings.suites.chosen:
        return result
    models: dict[Role, Path] = {"policy": policy, "sft": sft}
    if champion is not None:
        models["champion"] = champion
    found = run_suites(settings, models, result.samples, sink)
    metrics = dict(result.metrics)
    for suite in found:
        metrics |= suite.metrics()
    report = appended(result.report, suites_report(found))
    return replace(result, metrics=metrics, report=replace(report, data={**report.data, "metrics": metrics}))
