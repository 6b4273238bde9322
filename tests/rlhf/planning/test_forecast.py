"""Sentences about forecasts."""

import pytest

from rlhf.planning.forecast import Forecast, Shortage, StepForecast, compared, from_data

FORECAST = Forecast(
    (
        StepForecast("a", 10.0, "earlier run", 2.0, "shape"),
        StepForecast("b", 0.0, cached_from="run-1"),
        StepForecast("c", 20.0, "calibration", 3.0, "calibration"),
    )
)


def test_only_computed_steps_cost_time_and_one_that_is_unknown_leaves_the_sum_unknown() -> None:
    assert FORECAST.seconds == 30.0
    assert FORECAST.peak_bytes == 3.0
    assert Forecast((*FORECAST.steps, StepForecast("d"))).seconds is None


def test_the_cost_is_hours_times_price_times_gpus() -> None:
    assert FORECAST.cost(60.0, 2) == pytest.approx(1.0)
    assert FORECAST.cost(None, 2) is None


def test_a_forecast_survives_json() -> None:
    assert from_data(FORECAST.as_data()) == FORECAST


def test_forecast_and_actual_stand_side_by_side_for_what_was_computed() -> None:
    assert compared(FORECAST, {"a": (11.0, 2.5)}) == {
        "a": {
            "actual_seconds": 11.0,
            "actual_peak_bytes": 2.5,
            "forecast_seconds": 10.0,
            "forecast_peak_bytes": 2.0,
        }
    }


def test_a_shortage_names_overrides_that_can_be_pasted() -> None:
    remedy = {"sft.lora": {"rank": 16}, "sft.gradient_checkpointing": True}
    said = str(Shortage("train_sft", 2**31, 2**30, remedy))
    assert said.endswith("it fits with: sft.lora='{rank: 16}' sft.gradient_checkpointing=true")
