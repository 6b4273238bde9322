"""The harness as far as it is ours: a stand-in for the package shows what it is asked, and how it is read."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from rlhf.errors import ConfigError, EvaluationError
from rlhf.evaluation.suites.figures import Estimator
from rlhf.evaluation.suites.lm_eval import LMEval
from rlhf.evaluation.suites.settings import LMEvalSettings

MODEL: Any = SimpleNamespace(model="weights", tokenizer="tokenizer", batch_size=4)


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A stand-in with one task; what it was asked is kept."""
    asked: dict[str, Any] = {}
    package, models, tasks = (
        ModuleType(name) for name in ("lm_eval", "lm_eval.models.huggingface", "lm_eval.tasks")
    )

    def simple_evaluate(**arguments: Any) -> dict[str, Any]:
        asked.update(arguments)
        return {"results": {"colours": {"alias": "colours", "acc,none": 0.75, "acc_stderr,none": 0.05}}}

    class TaskManager:
        def __init__(self, include_path: str | None) -> None:
            self.all_tasks = ["colours"]

    package.simple_evaluate = simple_evaluate  # type: ignore[attr-defined]
    models.HFLM = lambda **arguments: arguments  # type: ignore[attr-defined]
    tasks.TaskManager = TaskManager  # type: ignore[attr-defined]
    for module in (package, ModuleType("lm_eval.models"), models, tasks):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return asked


def test_a_tasks_metric_becomes_a_figure_with_an_interval(harness: dict[str, Any]) -> None:
    suite = LMEval(LMEvalSettings(tasks=("colours",), limit=10), seed=3)
    found = suite.ask(MODEL)
    assert harness["model"] == {"pretrained": "weights", "tokenizer": "tokenizer", "batch_size": 4}
    assert (harness["limit"], harness["random_seed"]) == (10, 3)
    metrics = suite.result({"policy": found}, Estimator(0.95, 0)).metrics()
    assert metrics["eval/lm_eval/colours_acc/policy"] == 0.75
    assert metrics["eval/lm_eval/colours_acc/policy_low"] == pytest.approx(0.75 - 1.96 * 0.05, abs=1e-4)


def test_unknown_tasks_and_metrics_are_named(harness: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"lm_eval\.tasks: the harness has no task shapes"):
        LMEval(LMEvalSettings(tasks=("shapes",)), seed=0)
    suite = LMEval(LMEvalSettings(tasks=("colours",), metrics=("exact_match",)), seed=0)
    with pytest.raises(EvaluationError, match="the task colours has no metric 'exact_match'; it has acc"):
        suite.ask(MODEL)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ConfigError, match=r"rlhf-pipeline\[lm-eval\]"):
        LMEval(LMEvalSettings(tasks=("colours",)), seed=0)
