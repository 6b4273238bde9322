"""What is refused before anything is loaded, and that settings name their own algorithm."""

from typing import Any

import pytest
from pydantic import ValidationError

from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.settings_policy import (
    DPOSettings,
    GRPOSettings,
    KTOSettings,
    RLOOSettings,
    algorithm_of,
)

ALL = {"ppo": PPOSettings, "rloo": RLOOSettings, "grpo": GRPOSettings, "dpo": DPOSettings, "kto": KTOSettings}


@pytest.mark.parametrize("name", ALL)
def test_settings_know_their_algorithm(name: str) -> None:
    assert algorithm_of(ALL[name]()) == name


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (RLOOSettings, {"rollout_batch_size": 10}, "not a multiple of group_size"),
        (GRPOSettings, {"rollout_batch_size": 16, "mini_batches": 3}, "not a multiple of mini_batches"),
        (GRPOSettings, {"rollout_batch_size": 16, "micro_batch_size": 3}, "micro_batch_size"),
        (RLOOSettings, {"generation": {"temperature": 0}}, "sample from the policy itself"),
        (DPOSettings, {"batch_size": 8, "micro_batch_size": 3}, "not a multiple of micro_batch_size"),
        (DPOSettings, {"loss": "ipo", "label_smoothing": 0.1}, "no effect on the loss ipo"),
        (KTOSettings, {"micro_batch_size": 1}, "micro_batch_size must be 2 or more"),
        (DPOSettings, {"lora": {"merge": False}}, "set merge to true"),
    ],
)
def test_what_contradicts_itself_is_refused_by_name(kind: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        kind(**values)


def test_greedy_dev_answers_are_allowed_where_nothing_is_rolled_out() -> None:
    assert DPOSettings(generation={"temperature": 0}).generation.temperature == 0
