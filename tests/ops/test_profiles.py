"""Profiles: where a run computes, laid under what it computes."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from ops import launch
from ops.environment import CONFIGS
from ops.profiles import laid_under, shipped_profiles
from ops.run_config import apply_overrides, config_card, find_config, read_config, validate
from rlhf.errors import ConfigError

MINIMAL: dict[str, Any] = {"parameters": {"feedback": {"sources": [{"type": "sample"}]}}}
IMAGE = "registry.example.com/rlhf:1.0"


@pytest.fixture(autouse=True)
def _image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_IMAGE", IMAGE)


@pytest.mark.parametrize("config", ["support_desk", "gpu_lora"])
@pytest.mark.parametrize("profile", [path.stem for path in shipped_profiles()])
def test_every_shipped_profile_fits_under_models_from_scratch_and_from_the_hub(
    profile: str, config: str
) -> None:
    merged = apply_overrides(read_config(find_config(config)), [f"profile={profile}"])
    assert [str(problem) for problem in validate(merged)] == []
    assert "profile" not in merged


@pytest.mark.parametrize("path", shipped_profiles(), ids=lambda path: path.stem)
def test_every_shipped_profile_says_what_it_needs_and_has_a_stack(path: Path) -> None:
    card = config_card(path)
    assert card.summary
    assert card.needs
    stack = yaml.safe_load((CONFIGS / "stacks" / path.name).read_text())
    assert {"orchestrator", "artifact_store", "container_registry", "experiment_tracker"} <= set(
        stack["components"]
    )


def test_the_configs_own_values_count_before_the_profiles() -> None:
    profile = {
        "settings": {"docker": {"parent_image": "a", "apt_packages": ["b", "c"]}},
        "enable_cache": True,
    }
    config = {"settings": {"docker": {"apt_packages": ["d"]}}, "enable_cache": False}
    assert laid_under(config, profile) == {
        "settings": {"docker": {"parent_image": "a", "apt_packages": ["d"]}},
        "enable_cache": False,
    }


def test_a_profile_may_stand_in_the_config_or_among_the_overrides_which_count_more(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("enable_cache: false")
    named = {**MINIMAL, "profile": "kubernetes"}
    assert "settings" in apply_overrides(named, [])
    assert apply_overrides(named, [f"profile={own}"]) == {**MINIMAL, "enable_cache": False}
    assert apply_overrides(named, ["profile=null"]) == MINIMAL


def test_an_override_of_one_step_leaves_those_alone_that_share_its_anchor() -> None:
    merged = apply_overrides(
        MINIMAL,
        [
            "profile=kubernetes",
            "steps.train_policy.settings.orchestrator.kubernetes.pod_settings.resources.limits.memory=128Gi",
        ],
    )

    def limits(step: str) -> Any:
        on_kubernetes = merged["steps"][step]["settings"]["orchestrator.kubernetes"]
        return on_kubernetes["pod_settings"]["resources"]["limits"]

    assert limits("train_policy")["memory"] == "128Gi"
    assert limits("train_sft")["memory"] == "64Gi"


def test_a_profile_that_is_not_there_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no profile 'kubernets', did you mean 'kubernetes'"):
        apply_overrides(MINIMAL, ["profile=kubernets"])
    with pytest.raises(ConfigError, match="name or the path of one profile"):
        apply_overrides(MINIMAL, ["profile=[a, b]"])


def test_steps_of_a_profile_that_a_run_does_not_have_are_left_out_and_unknown_ones_refused(
    tmp_path: Path,
) -> None:
    merged = apply_overrides(read_config(find_config("gpu_lora")), ["profile=kubernetes"])
    steps = launch.startable(merged)["steps"]
    assert "train_policy" in steps
    assert not {"pretrain", "start_training"} & set(steps)
    own = tmp_path / "own.yaml"
    own.write_text("steps: {train_polcy: {enable_cache: false}}")
    [problem] = validate(apply_overrides(MINIMAL, [f"profile={own}"]))
    assert str(problem) == "steps.train_polcy: no such step, did you mean 'train_policy'?"


def test_a_run_is_refused_on_a_stack_that_its_profile_is_not_for() -> None:
    with pytest.raises(ConfigError, match=r"settings\.orchestrator\.kubernetes: is not for the stack"):
        launch.run("support_desk", ["profile=kubernetes"])
