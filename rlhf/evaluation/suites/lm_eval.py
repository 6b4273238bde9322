"""EleutherAI's evaluation harness (Gao et al., doi:10.5281/zenodo.10256836) on the models at hand; its
package ``lm-eval`` is an extra."""

import importlib
from collections.abc import Mapping
from typing import Any

from scipy import stats

from rlhf.errors import ConfigError, EvaluationError
from rlhf.evaluation.evidence import Role
from rlhf.evaluation.suites.figures import Estimator, Figure, SuiteResult
from rlhf.evaluation.suites.respondent import Respondent
from rlhf.evaluation.suites.settings import LMEvalSettings
from rlhf.evaluation.win_rate import Estimate

NAME = "lm_eval"
_ABOUT = (
    "Tasks of EleutherAI's evaluation harness; intervals are the value and normal quantiles of the standard "
    "error that the harness gives."
)
_RESAMPLES = 1000
Values = dict[str, tuple[float, float]]
"""Value and standard error by figure."""


class LMEval:
    """Some of the harness's tasks.

    Raises:
        ConfigError: the package is absent, or a task is not known.
    """

    def __init__(self, settings: LMEvalSettings, seed: int) -> None:
        self._settings, self._seed = settings, seed
        self._harness = _package("lm_eval")
        self._models = _package("lm_eval.models.huggingface")
        self._tasks = _package("lm_eval.tasks").TaskManager(
            include_path=None if settings.include_path is None else str(settings.include_path)
        )
        unknown = sorted(set(settings.tasks) - set(self._tasks.all_tasks))
        if unknown:
            raise ConfigError(
                f"evaluation.suites.lm_eval.tasks: the harness has no task {', '.join(unknown)}; its command "
                "`lm-eval ls tasks` lists them, and include_path adds yours."
            )

    def ask(self, model: Respondent) -> Values:
        """Value and standard error of every task's metrics.

        Raises:
            EvaluationError: a task's data cannot be had, or it lacks a metric.
        """
        wrapped = self._models.HFLM(
            pretrained=model.model, tokenizer=model.tokenizer, batch_size=model.batch_size
        )
        try:
            found = self._harness.simple_evaluate(
                model=wrapped,
                tasks=list(self._settings.tasks),
                task_manager=self._tasks,
                num_fewshot=self._settings.fewshot,
                limit=self._settings.limit,
                random_seed=self._seed,
                numpy_random_seed=self._seed,
                torch_random_seed=self._seed,
                fewshot_random_seed=self._seed,
                bootstrap_iters=_RESAMPLES,
                log_samples=False,
            )["results"]
        except (OSError, ValueError, KeyError) as error:
            raise EvaluationError(
                f"evaluation.suites.lm_eval: the harness failed with {type(error).__name__}: {error}; see "
                "whether the tasks' data can be reached."
            ) from error
        return {
            f"{task}_{metric}": _read(found.get(task, {}), task, metric)
            for task in self._settings.tasks
            for metric in self._settings.metrics
        }

    def result(self, answers: Mapping[Role, Values], estimator: Estimator) -> SuiteResult:
        """The figures with intervals."""
        z = float(stats.norm.ppf(0.5 + estimator.confidence / 2))
        names = list(answers["policy"])
        return SuiteResult(
            suite=NAME,
            title="Tasks of the evaluation harness",
            about=_ABOUT,
            items=0,
            figures=[
                Figure(
                    name,
                    "",
                    {
                        role: Estimate(value, value - z * error, value + z * error)
                        for role, found in answers.items()
                        for value, error in [found[name]]
                    },
                )
                for name in names
            ],
        )


def _read(results: Mapping[str, Any], task: str, metric: str) -> tuple[float, float]:
    """A metric of the harness's default filter, whose keys are such as ``acc,none``."""
    keys = [key for key in results if key.split(",")[0] == metric]
    if not keys or not isinstance(results[keys[0]], int | float):
        names = sorted({key.split(",")[0] for key in results if "_stderr" not in key} - {"alias", "name"})
        raise EvaluationError(
            f"evaluation.suites.lm_eval.metrics: the task {task} has no metric {metric!r}; it has "
            f"{', '.join(names) or 'none'}."
        )
    error = results.get(keys[0].replace(metric, f"{metric}_stderr", 1))
    return float(results[keys[0]]), float(error) if isinstance(error, int | float) else float("nan")


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"evaluation.suites.lm_eval needs the package lm-eval ({error}); install rlhf-pipeline[lm-eval]."
        ) from error
