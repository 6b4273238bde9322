"""Memory that the C library holds back after tensors were freed, and how to hand it back."""

import ctypes


def hand_back_freed_memory() -> None:
    """Let the C library return freed memory to the operating system, where it can (glibc).

    It keeps what small and middling tensors leave behind for the next ones. Before something large is made
    that stays, such as an optimizer's moments, that would only add to the peak. It takes milliseconds, and
    touching the memory again some more: not for inner loops.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
