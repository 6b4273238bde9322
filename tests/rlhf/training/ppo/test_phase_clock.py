"""What the phases of an update are said to take."""

import time

import pytest
import torch

from rlhf.training.ppo.phase_clock import PhaseClock


def test_each_phase_gets_its_own_seconds_and_the_tokens_are_per_second_of_all() -> None:
    clock = PhaseClock(torch.device("cpu"))
    with clock.timed("generate"):
        time.sleep(0.02)
    with clock.timed("learn"):
        time.sleep(0.04)
    figures = clock.figures(tokens=30)
    assert figures["seconds_generate"] >= 0.02
    assert figures["seconds_learn"] >= 0.04
    total = figures["seconds_generate"] + figures["seconds_learn"]
    assert figures["tokens_per_second"] == pytest.approx(30 / total)


def test_a_phase_that_fails_is_timed_as_well() -> None:
    clock = PhaseClock(torch.device("cpu"))
    with pytest.raises(KeyError), clock.timed("score"):
        raise KeyError
    assert set(clock.seconds) == {"score"}
