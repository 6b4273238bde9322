"""The last word of a failed run: what to free or to lower."""

import errno

import pytest
import torch
from safetensors import SafetensorError

from ops.launch import explain


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("(sqlite3.OperationalError) database or disk is full"),
    ],
)
def test_a_full_disk_is_told_whoever_noticed_it(error: Exception) -> None:
    wrapped = RuntimeError("the step failed")
    wrapped.__cause__ = error
    assert explain(wrapped).startswith("The disk is full; free space under")


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")]
)
def test_memory_that_ran_out_is_told_with_what_to_lower(error: Exception) -> None:
    assert "lower sft.micro_batch_size" in explain(error)
