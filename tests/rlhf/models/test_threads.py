"""Threads by model size."""

import torch

from rlhf.models.threads import choose_threads, intra_op_threads


def test_a_million_parameters_run_on_one_thread() -> None:
    assert choose_threads(1_000_000) == 1


def test_a_large_model_uses_every_processor_and_no_more() -> None:
    assert choose_threads(10**12) == choose_threads(10**11) >= 1


def test_the_number_of_threads_is_restored() -> None:
    before = torch.get_num_threads()
    with intra_op_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
