"""A config that cannot be evaluated is refused before anything is loaded."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from rlhf.evaluation.settings import EvaluationSettings


def test_further_rewards_are_named_functions() -> None:
    settings = EvaluationSettings(rewards={"gold": "rlhf.sample.gold:gold_reward"})
    assert settings.rewards == {"gold": "rlhf.sample.gold:gold_reward"}


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ({"proxy": "m:f"}, "name of a reward model of the pipeline"),
        ({"judge": "m:f"}, "name of a reward model of the pipeline"),
        ({"rm": "m:f"}, "cannot be called 'rm'"),
        ({"length": "m:f"}, "cannot be called 'length'"),
        ({"Gold Score": "m:f"}, "cannot be called 'Gold Score'"),
        ({"gold": "m.f"}, "gold"),
    ],
)
def test_names_and_sources_that_cannot_work_are_refused(rewards: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EvaluationSettings(rewards=rewards)


def test_configs_of_evaluation_and_promotion_are_validated_without_torch() -> None:
    code = (
        "import sys, rlhf.evaluation.settings, rlhf.registry.settings, rlhf.registry.champion;"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
