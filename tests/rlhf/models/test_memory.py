"""Freed memory goes back to the operating system."""

import platform
import resource
from pathlib import Path

import pytest

from rlhf.models.memory import hand_back_freed_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries return memory by themselves")
def test_what_small_objects_left_behind_is_handed_back() -> None:
    held = [bytearray(20_000) for _ in range(10_000)]
    last = bytearray(20_000)  # keeps the end of the heap, so that freeing alone returns little
    full = _resident()
    del held
    hand_back_freed_memory()
    assert full - _resident() > 100e6
    assert len(last) == 20_000


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
