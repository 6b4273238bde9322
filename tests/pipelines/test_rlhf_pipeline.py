"""Sentences about a run of the whole pipeline, proved on real ZenML and MLflow runs of a tiny config."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from mlflow.tracking import MlflowClient
from zenml.client import Client
from zenml.models import PipelineRunResponse

from ops import environment, launch
from ops.gate import verdict_record, verify
from ops.model_cards import CARD, read_card
from ops.registries import policy_registry
from ops.stage import MLFLOW_RUN_ID
from ops.tags import DIGEST_TAG
from rlhf.evaluation.settings import EvaluationSettings
from rlhf.models.directory import ModelDirectory, directory_digest, open_directory
from rlhf.report import Report
from tests.pipelines.conftest import TINY, finished

STEPS = {
    "ingest_feedback",
    "prepare_datasets",
    "pretrain",
    "train_sft",
    "train_proxy_reward_model",
    "train_selection_reward_model",
    "train_judge_reward_model",
    "train_policy",
    "resolve_champion",
    "evaluate_policy",
    "promote_policy",
}
ROLES = ("proxy", "selection", "judge")
NEVER_CACHED = {"ingest_feedback", "resolve_champion", "promote_policy"}


def _status(run: PipelineRunResponse) -> dict[str, str]:
    return {name: step.status.value for name, step in run.steps.items()}


def _output(run: PipelineRunResponse, step: str, name: str) -> object:
    return run.steps[step].outputs[name][0].load()


def _mlflow_run_id(run: PipelineRunResponse) -> str:
    return str(run.run_metadata[MLFLOW_RUN_ID])


def test_every_stage_runs_as_a_step(first_run: PipelineRunResponse) -> None:
    assert _status(first_run) == dict.fromkeys(STEPS, "completed")


def test_the_first_policy_becomes_the_champion_in_both_registries(first_run: PipelineRunResponse) -> None:
    policy = _output(first_run, "train_policy", "policy")
    assert isinstance(policy, ModelDirectory)
    champion = policy_registry().champion()
    assert champion is not None
    assert champion.digest == policy.digest
    zenml = Client().get_model_version("policy", "production")
    assert zenml.name == f"v{champion.version}"
    assert zenml.get_artifact("policy").content_hash == policy.digest


def test_the_proxy_is_registered_with_the_policy_and_the_card_lies_beside_both(
    first_run: PipelineRunResponse, mlflow: MlflowClient
) -> None:
    registry = policy_registry()
    champion = registry.champion()
    assert champion is not None
    proxy = first_run.steps["train_proxy_reward_model"].outputs["reward_model"][0]
    found = mlflow.get_model_version_by_alias("reward-model", "champion")
    assert champion.reward_model("proxy") == str(found.version)
    assert found.tags[DIGEST_TAG] == proxy.content_hash
    assert Client().get_model_version("reward-model", "production").name == f"v{found.version}"
    card = read_card(champion.path)
    assert card is not None
    assert (Path(proxy.uri) / CARD).exists()
    for part in ("| support_desk | Apache-2.0 |", "Krippendorff", "## Settings", "Among the worst answers"):
        assert part in card, card
    assert mlflow.get_model_version("policy", champion.version).description[:200] == card[:200]
    assert open_directory(Path(champion.path), verify=True).digest == champion.digest


def test_the_registered_version_is_the_artifact_itself(
    first_run: PipelineRunResponse, mlflow: MlflowClient
) -> None:
    version = mlflow.get_model_version_by_alias("policy", "champion")
    artifact = first_run.steps["train_policy"].outputs["policy"][0]
    assert Path(version.source) == Path(artifact.uri) / "model"
    weights = list(environment.home().rglob("model.safetensors"))
    held = [path for path in weights if open_directory(path.parent).digest == artifact.content_hash]
    assert len(held) == 1


def test_mlflow_loads_the_champion_by_its_alias_and_leaves_it_as_it_is(
    first_run: PipelineRunResponse, mlflow: MlflowClient, lead_mlflow_to: Callable[[str], None]
) -> None:
    import mlflow as module

    lead_mlflow_to(mlflow.tracking_uri)
    pipe = module.transformers.load_model("models:/policy@champion")
    assert pipe("Hello", max_new_tokens=2)[0]["generated_text"].startswith("Hello")
    artifact = first_run.steps["train_policy"].outputs["policy"][0]
    assert directory_digest(Path(artifact.uri) / "model") == artifact.content_hash


def test_one_mlflow_run_holds_the_curves_of_every_trainer(
    first_run: PipelineRunResponse, mlflow: MlflowClient
) -> None:
    run = mlflow.get_run(_mlflow_run_id(first_run))
    prefixes = {name.split("/")[0] for name in run.data.metrics}
    assert {"sft", "reward", "ppo", "ppo_eval", "eval"} <= prefixes
    assert len(mlflow.get_metric_history(run.info.run_id, "ppo/reward")) == 3
    assert run.info.status == "FINISHED"
    assert run.data.params["ppo/updates"] == "3"
    assert {"git.commit", "version.torch"} <= set(run.data.tags)
    experiment = mlflow.get_experiment_by_name("rlhf_pipeline")
    assert experiment is not None
    assert (
        len(
            mlflow.search_runs([experiment.experiment_id], f"tags.`zenml.pipeline_run_id` = '{first_run.id}'")
        )
        == 1
    )


def test_suites_of_the_evaluation_are_figures_in_the_report_and_in_mlflow(
    first_run: PipelineRunResponse, mlflow: MlflowClient
) -> None:
    figures = mlflow.get_run(_mlflow_run_id(first_run)).data.metrics
    assert 0 <= figures["eval/toxicity/toxic_share/policy"] <= 1
    assert figures["eval/toxicity/items"] == 12
    report = _output(first_run, "evaluate_policy", "evaluation")
    assert isinstance(report, Report)
    assert report.data["metrics"]["eval/toxicity/score/sft"] == figures["eval/toxicity/score/sft"]
    assert "Toxicity" in report.html


def test_every_artifact_has_a_visualization_and_a_content_hash(first_run: PipelineRunResponse) -> None:
    for step in first_run.steps.values():
        for name, [artifact] in step.outputs.items():
            assert artifact.content_hash, f"{name} of {step.name}"
            if name != "champion":
                assert artifact.visualizations, f"{name} of {step.name}"


def test_the_evaluation_report_loads_nothing_from_outside(first_run: PipelineRunResponse) -> None:
    report = _output(first_run, "evaluate_policy", "evaluation")
    assert isinstance(report, Report)
    assert "<svg" in report.html
    assert "src=" not in report.html.replace('xlink:href="#', "")
    assert "<script" not in report.html


def test_the_judge_scores_answers_and_checkpoints_that_training_never_showed_it(
    first_run: PipelineRunResponse,
) -> None:
    report = _output(first_run, "evaluate_policy", "evaluation")
    assert isinstance(report, Report)
    rewards = {"proxy", "selection", "judge", "gold"}
    assert report.data["rewards"].keys() == report.data["by_prompt"]["scores"].keys() == rewards
    assert all(point["rewards"].keys() == rewards for point in report.data["frontier"])
    assert sum(point["chosen"] for point in report.data["frontier"]) == 1
    assert "judge" not in _output(first_run, "train_policy", "frontier").column_names  # type: ignore[attr-defined]
    models = [_output(first_run, f"train_{role}_reward_model", "reward_model") for role in ROLES]
    assert [model.training["fold"] for model in models] == [0, 1, 2]  # type: ignore[attr-defined]
    assert len({model.training["seed"] for model in models}) == 3  # type: ignore[attr-defined]


def test_every_figure_of_a_run_has_a_name_that_a_config_can_be_checked_against(
    first_run: PipelineRunResponse,
) -> None:
    report = _output(first_run, "evaluate_policy", "evaluation")
    assert isinstance(report, Report)
    metrics = report.data["metrics"]
    config = yaml.safe_load(TINY.read_text())["parameters"]
    settings = EvaluationSettings.model_validate(config["evaluation"])
    assert set(metrics) <= settings.figure_names()
    assert {f"eval/rm/{role}/accuracy" for role in ROLES} <= set(metrics)
    assert metrics["eval/perplexity/sft"] > 1


def test_no_artifact_is_a_pickle(first_run: PipelineRunResponse) -> None:
    suffixes = {path.suffix for path in environment.artifact_store().rglob("*") if path.is_file()}
    assert not suffixes & {".pkl", ".pickle", ".pt", ".bin", ".gz"}


class TestASecondRun:
    @pytest.fixture(scope="class")
    def second(self, first_run: PipelineRunResponse) -> PipelineRunResponse:
        return finished(launch.run(str(TINY)))

    def test_takes_all_training_from_the_cache(self, second: PipelineRunResponse) -> None:
        # There is a champion now, which the first run's evaluation did not see.
        expected = {
            name: "completed" if name in NEVER_CACHED | {"evaluate_policy"} else "cached" for name in STEPS
        }
        assert _status(second) == expected

    def test_points_to_the_mlflow_run_that_holds_the_curves(
        self, first_run: PipelineRunResponse, second: PipelineRunResponse, mlflow: MlflowClient
    ) -> None:
        tags = mlflow.get_run(_mlflow_run_id(second)).data.tags
        assert _mlflow_run_id(second) != _mlflow_run_id(first_run)
        assert tags["cached.train_policy"] == _mlflow_run_id(first_run)

    def test_says_that_the_policy_is_the_champion_already(self, second: PipelineRunResponse) -> None:
        report = _output(second, "promote_policy", "promotion")
        assert isinstance(report, Report)
        assert report.data["verdict"] == "already_champion"
        assert len(policy_registry().mlflow.search_model_versions("name = 'policy'")) == 1

    def test_leaves_the_verdict_that_promoted_the_champion_in_both_registries_and_on_its_card(
        self, first_run: PipelineRunResponse, second: PipelineRunResponse
    ) -> None:
        for run in (first_run, second):
            assert [check.what for check in verify(run) if check.problem] == []
        champion = policy_registry().champion()
        assert champion is not None
        card = read_card(champion.path)
        assert card is not None
        assert verdict_record(first_run)["summary"] in card

    def test_is_cached_entirely_the_next_time(self, second: PipelineRunResponse) -> None:
        third = finished(launch.run(str(TINY)))
        assert {name for name, status in _status(third).items() if status != "cached"} == NEVER_CACHED


def test_a_figure_that_was_changed_in_the_artifact_store_is_found(first_run: PipelineRunResponse) -> None:
    file = Path(first_run.steps["evaluate_policy"].outputs["evaluation"][0].uri) / "report.json"
    before = file.read_text()
    report = json.loads(before)
    report["data"]["metrics"]["eval/kl"] += 1
    for changed in (json.dumps(report), before[:-1]):
        try:
            file.write_text(changed)
            assert [check.what for check in verify(first_run) if check.problem] == ["artifact evaluation"]
        finally:
            file.write_text(before)


@pytest.mark.parametrize(
    ("algorithm", "reward"),
    [("dpo", None), ("rloo", {"type": "mix", "rewards": [{"type": "proxy"}], "weights": [2.0]})],
)
def test_one_key_switches_the_algorithm(
    first_run: PipelineRunResponse, mlflow: MlflowClient, algorithm: str, reward: dict[str, object] | None
) -> None:
    run = finished(launch.run(str(TINY), [f"algorithm={algorithm}", f"reward={json.dumps(reward)}"]))
    policy = _output(run, "train_policy", "policy")
    assert isinstance(policy, ModelDirectory)
    assert policy.training.keys() == ({algorithm} if reward is None else {algorithm, "reward"})
    assert reward is None or policy.training["reward"]["weights"] == reward["weights"]
    ran = {name for name, status in _status(run).items() if status == "completed"}
    assert ran == NEVER_CACHED | {"train_policy", "evaluate_policy"}
    frontier = _output(run, "train_policy", "frontier")
    assert sorted(set(frontier["update"])) == [0, 1, 2]  # type: ignore[index]
    report = _output(run, "evaluate_policy", "evaluation")
    assert isinstance(report, Report)
    maximised = set() if reward is None else {"maximised"}
    assert report.data["frontier"][0]["rewards"].keys() == {"proxy", "selection", "judge", "gold"} | maximised
    metrics = mlflow.get_run(_mlflow_run_id(run)).data.metrics
    assert {f"{algorithm}/loss", f"{algorithm}_eval/selection_reward", f"seconds/{algorithm}"} <= set(metrics)
    assert not any(name.startswith("ppo") for name in metrics)


def test_the_sections_of_other_algorithms_do_not_matter_to_the_cache(
    first_run: PipelineRunResponse,
) -> None:
    run = finished(launch.run(str(TINY), ["rloo.updates=7", "kto.beta=0.5"]))
    assert _status(run)["train_policy"] == "cached"


def test_a_changed_helper_invalidates_the_steps_that_reach_it_and_no_others(
    first_run: PipelineRunResponse,
) -> None:
    helper = environment.PROJECT_ROOT / "rlhf" / "evaluation" / "win_rate.py"
    before = helper.read_bytes()
    try:
        helper.write_bytes(before + b"\n# touched\n")
        again = finished(launch.run(str(TINY)))
    finally:
        helper.write_bytes(before)
    ran = {name for name, status in _status(again).items() if status == "completed"}
    assert ran == NEVER_CACHED | {"evaluate_policy"}


def test_zenmls_own_command_starts_the_same_pipeline(first_run: PipelineRunResponse) -> None:
    command = [
        str(Path(sys.executable).parent / "zenml"),
        "pipeline",
        "run",
        "rlhf_pipeline",
        "-c",
        str(TINY),
    ]
    done = subprocess.run(
        command, cwd=environment.PROJECT_ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    latest = Client().list_pipeline_runs(sort_by="desc:created", size=1).items[0]
    assert latest.pipeline.name == "rlhf_pipeline"
    assert _status(latest)["train_policy"] == "cached"


def test_zenmls_own_command_refuses_unknown_keys(tmp_path: Path, first_run: PipelineRunResponse) -> None:
    config = tmp_path / "wrong.yaml"
    config.write_text(TINY.read_text().replace("ppo:", "poo:"))
    command = [
        str(Path(sys.executable).parent / "zenml"),
        "pipeline",
        "run",
        "rlhf_pipeline",
        "-c",
        str(config),
    ]
    done = subprocess.run(
        command, cwd=environment.PROJECT_ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode != 0
    assert "did you mean 'ppo'" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
