import pytest

from ops.calibration import policy_pace, supervised_pace


def test_the_evaluation_after_the_last_step_is_told_from_the_steps() -> None:
    # two seconds of loading, 0.5 s a step, and 3 s of evaluation before the last point
    moments = [(step, 2 + 0.5 * step) for step in (10, 20, 30, 40)]
    pace = supervised_pace([*moments, (50, 2 + 25 + 3.0), (50, 2 + 25 + 3.1)])
    assert (pace.step, pace.evaluation) == (pytest.approx(0.5), pytest.approx(3.0))


def test_a_stage_with_too_few_points_is_not_extrapolated() -> None:
    assert supervised_pace([(1, 5.0), (1, 6.0)]).step == 0.0
    assert policy_pace([(1, 5.0), (1, 6.0)], period=1).step == 0.0


def test_an_update_has_its_share_of_evaluations() -> None:
    # a second an update, 4 s an evaluation after every second of them
    moments, time = [], 0.0
    for update in range(1, 5):
        time += 1.0
        moments.append((update, time))
        if update % 2 == 0:
            time += 4.0
            moments.append((update, time))
    assert policy_pace(moments, period=2).step == pytest.approx((2 * 1.0 + 4.0) / 2)


def test_updates_that_only_warm_the_critic_up_are_not_taken_for_the_others() -> None:
    moments = [(update, 0.1 * update) for update in (1, 2, 3)]
    moments += [(3 + update, 0.3 + update) for update in (1, 2, 3, 4)]
    assert policy_pace(moments, period=2).step == pytest.approx(1.0)
