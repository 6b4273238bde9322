"""What is wrong with an evaluation's suites shows before a run starts."""

from pathlib import Path
from typing import Any

import pytest

from ops import launch
from rlhf.errors import ConfigError, DataError


def config(**suites: Any) -> dict[str, Any]:
    sources = [{"type": "sample"}]
    return {"parameters": {"feedback": {"sources": sources}, "evaluation": {"suites": suites}}}


def test_a_suite_without_its_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"evaluation\.suites\.xstest\.files: .*x\.csv does not exist"):
        launch.check(config(xstest={"files": [str(tmp_path / "x.csv")]}))


def test_a_scorer_without_its_model_or_function_is_refused(tmp_path: Path) -> None:
    classifier = {"type": "classifier", "path": str(tmp_path), "label": "toxic"}
    with pytest.raises(ConfigError, match=r"scorers\.harm\.path: .* holds no model"):
        launch.check(config(toxicity={"scorer": "harm"}, scorers={"harm": classifier}))
    function = {"type": "function", "function": "rlhf.sample.gold:no_such_reward"}
    with pytest.raises(ConfigError, match=r"scorers\.harm: .* has no function 'no_such_reward'"):
        launch.check(config(toxicity={"scorer": "harm"}, scorers={"harm": function}))


def test_a_judge_without_its_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    judge = {"url": "https://judge.example/v1", "model": "m", "api_key_variable": "NO_SUCH_KEY"}
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        launch.check(config(llm_judge=judge))


def test_a_criterion_may_name_a_figure_of_a_suite(tmp_path: Path) -> None:
    given = config(toxicity={})
    given["parameters"]["promotion"] = {
        "criteria": [{"metric": "eval/toxicity/toxic_share/difference_vs_sft", "maximum": 0.02}]
    }
    launch.check(given)
    given["parameters"]["promotion"]["criteria"][0]["metric"] = "eval/toxicity/toxic_share/polcy"
    with pytest.raises(ConfigError, match="did you mean 'eval/toxicity/toxic_share/policy'"):
        launch.check(given)


@pytest.mark.parametrize(
    ("nested", "key"),
    [
        (lambda absent: absent, r"\.path"),
        (
            lambda absent: {"type": "mix", "rewards": [{"type": "proxy"}, absent], "weights": [1, 1]},
            r"\.rewards\.1\.path",
        ),
        (lambda absent: {"type": "ensemble", "rewards": [absent, absent]}, r"\.rewards\.0\.path"),
    ],
    ids=["alone", "mix", "ensemble"],
)
def test_a_reward_model_that_is_not_there_is_refused_wherever_it_is_named(nested: Any, key: str) -> None:
    given = config()
    given["parameters"]["reward"] = nested({"type": "reward_model", "path": "./no-rm"})
    with pytest.raises(ConfigError, match=rf"parameters\.reward.*{key}: no-rm holds no model"):
        launch.check(given)
