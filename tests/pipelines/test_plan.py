"""Sentences about a plan, proved beside real runs."""

import json

import pytest
from click.testing import CliRunner
from zenml.models import PipelineRunResponse

from ops import environment, launch, plan, run_config
from ops.cli import main
from ops.stage import STAGE_PEAK
from tests.pipelines.conftest import TINY, finished

pytestmark = pytest.mark.slow


def test_what_the_plan_says_of_the_cache_is_what_the_run_then_does(first_run: PipelineRunResponse) -> None:
    launch.run(str(TINY))  # against the champion that the first run made
    made = plan.plan(str(TINY))
    run = finished(launch.run(str(TINY)))
    cached = {name for name, step in run.steps.items() if step.status.value == "cached"}
    assert {step.step for step in made.forecast.steps if step.cached_from} == cached
    changed = plan.plan(str(TINY), ["ppo.updates=2"])
    computed = {step.step for step in changed.forecast.steps if not step.cached_from}
    assert {"train_policy", "evaluate_policy"} <= computed
    assert "train_sft" not in computed


def test_a_step_says_how_much_memory_it_held(first_run: PipelineRunResponse) -> None:
    peak = float(first_run.steps["train_policy"].run_metadata[STAGE_PEAK])
    assert 2e8 < peak < 2e10


def test_the_forecast_stands_beside_what_the_run_took(first_run: PipelineRunResponse) -> None:
    asked = ["sft.max_steps=1", "ppo.updates=1", "reward_model.max_steps=1"]
    plan.plan(str(TINY), asked)
    found = json.loads(str(finished(launch.run(str(TINY), asked)).run_metadata[plan.FORECAST]))
    sft = found["train_sft"]
    assert sft["forecast_peak_bytes"] > 0
    assert sft["actual_peak_bytes"] > 0
    assert "pretrain" not in found  # it came from the cache


def test_what_cannot_fit_is_refused_with_what_would_make_it_fit(first_run: PipelineRunResponse) -> None:
    big = ["pretrain.steps=1", "sft.max_length=256", "plan.memory_gib=0.0001", "plan.runs_on=cuda"]
    done = CliRunner().invoke(main, ["plan", str(TINY), *big])
    assert done.exit_code == 1
    assert "train_sft needs" in done.output


def test_a_price_makes_a_cost(first_run: PipelineRunResponse) -> None:
    made = plan.plan(str(TINY), ["plan.price_per_hour=3.6", "plan.gpus=2"])
    assert made.forecast.seconds is not None
    cost = made.forecast.cost(made.settings.price_per_hour, made.settings.gpus)
    assert cost == pytest.approx(made.forecast.seconds * 0.002)
    assert run_config.section({}, "plan").price_per_hour is None


def test_a_calibration_forecasts_every_step_and_leaves_nothing_behind(
    first_run: PipelineRunResponse,
) -> None:
    asked = ["seed=31", "sft.max_steps=60", "ppo.updates=4"]
    forecast = plan.plan(str(TINY), asked, calibrated=True).forecast
    computed = [step for step in forecast.steps if step.cached_from is None]
    assert {"train_sft", "train_policy", "evaluate_policy"} <= {step.step for step in computed}
    assert {step.seconds_from for step in computed} == {"calibration"}
    assert {step.peak_from for step in computed if step.step.startswith("train_")} == {"calibration"}
    assert forecast.seconds is not None
    assert forecast.seconds > 0
    assert list((environment.home() / "calibration").iterdir()) == []
