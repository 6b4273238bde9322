"""All suites together: settings, names of figures, cache content, report, and the publishers' real files."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rlhf.errors import DataError
from rlhf.evaluation.policy import PolicyEvaluationResult
from rlhf.evaluation.settings import EvaluationSettings, reward_name_problem
from rlhf.evaluation.suites.content import are_lasting, suites_content
from rlhf.evaluation.suites.run import build_suites, run_suites, with_suites
from rlhf.evaluation.suites.settings import SuitesSettings
from rlhf.report import ReportBuilder

SAMPLES = [
    {"record_id": str(i), "prompt": f"q{i}", "policy_completion": "you idiot", "sft_completion": "hello"}
    for i in range(6)
]


def settings(**suites: Any) -> EvaluationSettings:
    return EvaluationSettings.model_validate({"generation": {"max_new_tokens": 8}, "suites": suites})


def test_every_figure_has_a_name_that_a_config_can_be_checked_against(suite_models: dict[str, Path]) -> None:
    chosen = settings(toxicity={}, instructions={"max_items": 6})
    found = run_suites(chosen, suite_models, SAMPLES)  # type: ignore[arg-type]
    assert [result.suite for result in found] == ["toxicity", "instructions"]
    metrics = {name for result in found for name in result.metrics()}
    ours = {name for name in chosen.suites.figure_names() if "champion" not in name}
    assert metrics == ours <= chosen.figure_names()


def test_the_same_seed_gives_the_same_figures(suite_models: dict[str, Path]) -> None:
    chosen = settings(instructions={"max_items": 6})
    first, second = (run_suites(chosen, suite_models, SAMPLES)[0].metrics() for _ in range(2))  # type: ignore[arg-type]
    assert first == second


def test_the_report_gets_a_section_and_every_figure(suite_models: dict[str, Path]) -> None:
    report = ReportBuilder("Policy evaluation", data={"metrics": {"eval/kl": 1.0}, "kl": 1}).build()
    samples = [{**row, "champion_completion": "hi"} for row in SAMPLES]
    before = PolicyEvaluationResult(report=report, metrics={"eval/kl": 1.0}, samples=samples)
    models = {"policy": suite_models["policy"], "sft": suite_models["sft"], "champion": suite_models["sft"]}
    after = with_suites(before, settings(toxicity={"files": []}, instructions={"max_items": 4}), **models)
    assert after.metrics["eval/kl"] == 1.0
    assert after.metrics["eval/instructions/prompt_strict/champion"] >= 0
    assert after.report.data["metrics"] == after.metrics
    assert set(after.report.data) == {"metrics", "kl", "suites"}
    json.dumps(dict(after.report.data))
    assert "Instruction adherence" in after.report.html
    assert after.report.html.endswith("</body></html>")
    assert not re.search(r'(?:src|href)="', after.report.html)
    assert with_suites(before, settings(), **models) is before


def test_suites_and_rewards_cannot_share_a_name() -> None:
    assert "toxicity" in (reward_name_problem("toxicity") or "")
    with pytest.raises(ValidationError, match="cannot be called 'llm_judge'"):
        EvaluationSettings(rewards={"llm_judge": "m:f"})


@pytest.mark.parametrize(
    ("suites", "message"),
    [
        ({"crowspairs": {"files": ["a"]}}, "crowspairs"),
        ({"crows_pairs": {}}, "files"),
        ({"bold": {"files": ["a"], "scorers": ["regard"]}}, "no scorer 'regard'; the scorers are"),
        ({"toxicity": {"scorer": "perspective"}}, "no scorer 'perspective'"),
        ({"llm_judge": {"url": "http://far.example/v1", "model": "m"}}, "not encrypted"),
    ],
)
def test_suites_that_cannot_run_are_refused(suites: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**suites)


def test_what_is_wrong_with_a_file_shows_before_a_model_is_loaded(tmp_path: Path) -> None:
    suites = settings(toxicity={}, bbq={"files": [str(tmp_path / "bbq.jsonl")]}).suites
    with pytest.raises(DataError, match=r"evaluation\.suites\.bbq\.files: .* does not exist"):
        build_suites(suites, seed=0)


def test_a_changed_file_or_scorer_is_another_evaluation(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "a"}')
    suites = settings(toxicity={"files": [str(file)]}).suites
    before = suites_content(suites)
    assert before == suites_content(suites) != ""
    file.write_text('{"prompt": "b"}')
    assert suites_content(suites) != before
    assert suites_content(SuitesSettings()) == ""


def test_figures_of_servers_are_not_kept() -> None:
    assert are_lasting(settings(toxicity={}).suites)
    judged = settings(llm_judge={"url": "https://judge.example/v1", "model": "m"}).suites
    assert not are_lasting(judged)
    scored = settings(
        scorers={"regard": {"type": "http", "url": "https://regard.example"}},
        bold={"files": ["f"], "scorers": ["regard"]},
    ).suites
    assert not are_lasting(scored)
    assert "eval/bold/regard_gap/policy_low" in scored.figure_names()


def test_settings_are_validated_without_torch() -> None:
    code = (
        "import sys, rlhf.evaluation.suites.settings, rlhf.evaluation.suites.content;"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_publishers_own_files_run(published: Path, suite_models: dict[str, Path]) -> None:
    def files(*names: str) -> dict[str, Any]:
        return {"files": [str(published / name) for name in names], "max_items": 40}

    chosen = settings(
        crows_pairs=files("crows_pairs.jsonl.gz"),
        winogender=files("winogenerated_examples.jsonl.gz"),
        bbq=files("bbq_Age.jsonl.gz", "bbq_Religion.jsonl.gz", "bbq_Sexual_orientation.jsonl.gz"),
        xstest=files("xstest_prompts.jsonl.gz"),
        bold=files("bold_gender_prompt.json.gz"),
    )
    found = run_suites(chosen, suite_models, SAMPLES)  # type: ignore[arg-type]
    assert [result.suite for result in found] == list(chosen.suites.chosen)
    metrics = {name for result in found for name in result.metrics()}
    assert {name for name in metrics if not name.endswith("items")} <= chosen.figure_names()
    asking, _ = build_suites(chosen.suites.model_copy(update={"xstest": None}), 0)
    assert all(question.biased is not None for question in asking["bbq"].items)  # type: ignore[attr-defined]
