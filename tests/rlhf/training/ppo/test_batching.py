"""The data order as a pure function of the seed."""

from rlhf.training.ppo.batching import derived_seed, prompts_of_update, update_plan


def test_every_prompt_is_used_once_per_pass_and_passes_differ_in_order() -> None:
    drawn = [i for update in range(1, 8) for i in prompts_of_update(update, 6, 14, seed=3)]
    passes = [drawn[start : start + 14] for start in (0, 14, 28)]
    assert all(sorted(p) == list(range(14)) for p in passes)
    assert passes[0] != passes[1]


def test_a_batch_may_be_larger_than_the_number_of_prompts() -> None:
    assert sorted(prompts_of_update(1, 6, 3, seed=0)) == [0, 0, 1, 1, 2, 2]


def test_an_updates_prompts_do_not_depend_on_the_updates_before_it() -> None:
    assert prompts_of_update(5, 4, 9, seed=1) == prompts_of_update(5, 4, 9, seed=1)
    assert prompts_of_update(5, 4, 9, seed=1) != prompts_of_update(5, 4, 9, seed=2)


def test_every_epoch_holds_every_rollout_once_within_the_token_budget() -> None:
    lengths = [3, 9, 4, 12, 5, 7, 8]
    plan = update_plan(lengths, epochs=3, mini_batches=2, token_budget=20, seed=0)
    assert len(plan) == 3
    for epoch in plan:
        assert len(epoch) == 2
        assert sorted(i for step in epoch for i in step.rows) == list(range(7))
        for batch in (b for step in epoch for b in step.micro_batches):
            assert len(batch) * max(lengths[i] for i in batch) <= 20
    assert plan[0] != plan[1]


def test_purposes_and_steps_have_seeds_of_their_own() -> None:
    seeds = {derived_seed(0, p, s) for p in ("prompts", "rollouts", "mini-batches") for s in range(50)}
    assert len(seeds) == 150


def test_processes_share_each_mini_batch_evenly_and_do_not_change_it() -> None:
    lengths = [3, 9, 4, 12, 5, 7, 8, 20, 2, 6, 11]
    plans = [
        update_plan(lengths, epochs=2, mini_batches=2, token_budget=20, seed=0, processes=n) for n in (1, 2)
    ]
    for alone, shared in zip(*([step for epoch in plan for step in epoch] for plan in plans), strict=True):
        assert sorted(alone.rows) == sorted(shared.rows)
        shares = [[i for batch in shared.of(process) for i in batch] for process in (0, 1)]
        assert sorted(shares[0] + shares[1]) == sorted(shared.rows)
        assert abs(len(shares[0]) - len(shares[1])) <= 1
        tokens = [sum(lengths[i] for i in share) for share in shares]
        assert abs(tokens[0] - tokens[1]) <= max(lengths)
        assert alone.of(0) == list(alone.micro_batches)
