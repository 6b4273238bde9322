"""What is said of a config before ZenML, which ignores unknown keys, sees it."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ops.run_config import (
    apply_overrides,
    checked,
    find_config,
    parameters_model,
    read_config,
    shipped_configs,
    validate,
)
from rlhf.errors import ConfigError
from rlhf.training.settings import SFTSettings

MINIMAL: dict[str, Any] = {"parameters": {"feedback": {"sources": [{"type": "sample"}]}}}


def _problems(config: dict[str, Any]) -> list[str]:
    return [str(problem) for problem in validate(config)]


def _with(**parameters: Any) -> dict[str, Any]:
    return {"parameters": {**MINIMAL["parameters"], **parameters}}


@pytest.mark.parametrize("name", [card.name for card in shipped_configs()])
def test_every_shipped_config_is_valid_and_says_what_it_needs(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLHF_DATA", "data")
    assert _problems(read_config(find_config(name))) == []
    [card] = [card for card in shipped_configs() if card.name == name]
    assert card.summary
    assert card.needs
    assert card.takes


def test_unknown_keys_are_named_with_the_nearest_known_one() -> None:
    assert _problems({**MINIMAL, "enable_cash": False}) == [
        "enable_cash: unknown key, did you mean 'enable_cache'?; remove it"
    ]
    [problem] = _problems(_with(sft={"epoch": 1}))
    assert problem == "parameters.sft.epoch: unknown key, did you mean 'epochs'?"


def test_a_stage_outside_of_parameters_is_told_where_it_belongs() -> None:
    [problem] = _problems({**MINIMAL, "ppo": {"updates": 3}})
    assert "stage settings belong under `parameters:`" in problem


def test_all_errors_are_reported_at_once() -> None:
    problems = _problems({**_with(sft={"epochs": -1, "nonsense": 1}, ppo={"updates": "many"}), "unknown": 1})
    assert len(problems) == 4


def test_an_unknown_step_is_named() -> None:
    [problem] = _problems({**MINIMAL, "steps": {"train_stf": {"enable_cache": False}}})
    assert problem == "steps.train_stf: no such step, did you mean 'train_sft'?"


def test_a_base_model_and_pre_training_contradict_each_other() -> None:
    [problem] = _problems(_with(base_model={"model": "org/name"}, pretrain={"steps": 1}))
    assert problem == "parameters.pretrain: contradicts base_model; keep one of the two"


def test_every_reward_model_needs_a_fold_of_its_own() -> None:
    [problem] = _problems(_with(datasets={"folds": 2}))
    assert problem == (
        "parameters.datasets.folds: the proxy, the selection model and the judge need a fold each; "
        "set it to 3"
    )


def test_an_environment_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    sources = [{"type": "file", "path": "${NOT_SET}/x.jsonl"}]
    [problem] = _problems({"parameters": {"feedback": {"sources": sources}}})
    assert problem == (
        "parameters.feedback.sources.0.path: the environment variable NOT_SET is not set; export it"
    )


def test_overrides_are_typed_and_reach_into_blocks_and_lists() -> None:
    config = apply_overrides(
        MINIMAL, ["sft.epochs=2", "feedback.sources.0.settings.seed=3", "enable_cache=false"]
    )
    parameters = checked(config)
    assert parameters.sft.epochs == 2.0  # type: ignore[attr-defined]
    assert parameters.feedback.sources[0].settings.seed == 3  # type: ignore[attr-defined]
    assert config["enable_cache"] is False
    assert "sft" not in MINIMAL["parameters"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sft.epochs", "write it as key.path=value"),
        ("seed.x=1", "is a value, not a block"),
        ("feedback.sources.7.limit=1", "not an index"),
    ],
)
def test_an_override_that_leads_nowhere_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        apply_overrides({"parameters": {**MINIMAL["parameters"], "seed": 1}}, [override])


def test_a_file_that_is_not_yaml_and_a_name_that_is_no_config_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(ConfigError, match=r"broken\.yaml is not readable YAML"):
        read_config(broken)
    with pytest.raises(ConfigError, match="did you mean 'support_desk'"):
        find_config("suport_desk")


def test_what_the_later_stages_cannot_use_is_refused_early() -> None:
    unmerged = {"lora": {"merge": False}}
    problems = _problems(_with(sft=unmerged, ppo={"ptx_coefficient": 1.0, **unmerged}))
    assert problems == [
        "parameters.sft.lora.merge: later stages load a full model; set it to true",
        "parameters.ppo.lora.merge: later stages load a full model; set it to true",
        "parameters.ppo.ptx_coefficient: the pipeline passes PPO no demonstrations; set it to 0",
    ]


def test_one_process_that_is_to_share_its_networks_is_found_before_training() -> None:
    [problem] = _problems(_with(ppo={"sharding": "fsdp"}))
    assert problem == "parameters.ppo.sharding: one process has nobody to share with; raise ppo.processes"
    assert _problems(_with(ppo={"sharding": "fsdp", "processes": 2})) == []
    assert _problems(_with(algorithm="dpo", ppo={"sharding": "fsdp"})) == []


def test_a_criterion_on_a_figure_that_is_not_reported_is_found_before_training() -> None:
    criteria = [{"metric": "eval/selection/win_rat", "versus": "sft", "minimum": 0.5}]
    [problem] = _problems(_with(promotion={"criteria": criteria}))
    assert problem == (
        "parameters.promotion.criteria.0.metric: the evaluation reports no "
        "'eval/selection/win_rat' versus sft, did you mean 'eval/selection/win_rate'?"
    )


def test_a_criterion_may_name_a_reward_of_ones_own() -> None:
    criteria = [{"metric": "eval/gold/win_rate", "versus": "sft", "test": "superiority"}]
    rewards = {"gold": "rlhf.sample.gold:gold_reward"}
    assert _problems(_with(promotion={"criteria": criteria}, evaluation={"rewards": rewards})) == []


def test_a_secret_from_the_environment_is_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANNOTATION_KEY", "s3cr3t-value")
    [problem] = _problems(_with(seed="${ANNOTATION_KEY}"))
    assert "s3cr3t-value" not in problem
    assert "${ANNOTATION_KEY}" in problem


@pytest.mark.parametrize(
    "secret", ["s3cr3t-" * 20, "with 'quotes' and \\ and\nlines", "plain"], ids=["long", "escaped", "plain"]
)
def test_no_part_of_a_secret_is_left_by_cutting_or_quoting(
    monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setenv("ANNOTATION_KEY", secret)
    for wrong in ("${ANNOTATION_KEY}", "x" * 70 + "${ANNOTATION_KEY}"):
        [problem] = _problems(_with(seed=wrong))
        assert secret[:6] not in problem
        assert "${ANNO" in problem


def test_a_block_in_the_place_of_a_value_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANNOTATION_KEY", "s3cr3t-value")
    [problem] = _problems(_with(seed={"token": "${ANNOTATION_KEY}", "key": "written-out"}))
    assert "s3cr3t" not in problem
    assert "written-out" not in problem
    with pytest.raises(ValidationError) as caught:
        parameters_model().model_validate(_with(seed={"token": "written-out"})["parameters"])
    assert "written-out" not in str(caught.value)
    with pytest.raises(ValidationError) as caught:
        SFTSettings(epochs="written-out")  # type: ignore[arg-type]
    assert "written-out" not in str(caught.value)


def test_the_algorithm_and_the_reward_are_validated_with_the_kind_that_was_meant() -> None:
    assert _problems(_with(algorithm="kto", reward={"type": "proxy"})) == []
    [problem] = _problems(_with(algorithm="pp0"))
    assert problem.startswith("parameters.algorithm: Input should be 'ppo', 'rloo', 'grpo', 'dpo' or 'kto'")
    [problem] = _problems(_with(reward={"type": "reward_model", "path": "rm", "pathh": 1}))
    assert problem.startswith("parameters.reward.reward_model.pathh: unknown key, did you mean 'path'?")
    [problem] = _problems(_with(dpo={"lora": {"merge": False}}))
    assert "set merge to true" in problem


def test_a_section_of_an_algorithm_that_is_not_chosen_may_stand_there() -> None:
    assert _problems(_with(algorithm="dpo", ppo={"ptx_coefficient": 1.0})) == []


def test_a_section_beside_the_parameters_is_checked_like_them() -> None:
    [problem] = _problems({**MINIMAL, "retraining": {"minimum_new_pair": 3}})
    assert problem == "retraining.minimum_new_pair: unknown key, did you mean 'minimum_new_pairs'?"
    assert apply_overrides(MINIMAL, ["retraining.minimum_new_pairs=3"])["retraining"] == {
        "minimum_new_pairs": 3
    }


def test_a_wrong_value_of_a_key_of_zenmls_is_found_with_all_the_others() -> None:
    steps = {"train_policy": {"enable_cache": "perhaps"}}
    problems = _problems({**_with(sft={"epoch": 1}), "enable_cache": "nope", "steps": steps})
    assert [problem.partition(":")[0] for problem in problems] == [
        "enable_cache",
        "steps.train_policy.enable_cache",
        "parameters.sft.epoch",
    ]
    assert "got 'nope'" in problems[0]
