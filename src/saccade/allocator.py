"""Memory that is freed at each step and asked for again at the next, kept in between."""

import ctypes
import os
import sys
from functools import cache

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h


@cache
def keep_freed_memory() -> bool:
    """Have this process keep the memory that it frees, instead of handing it back to the system; whether it does now.

    The tensors of a step on a processor are large, and glibc fetches each from the kernel and gives it back after use.
    Every page is then cleared and mapped anew at every step, which costs a quarter to a third of it
    (benchmarks/NOTES.md). The process stays at its peak until it ends. Does nothing without glibc, nor where the
    environment tunes its malloc already (MALLOC_...).
    """
    if sys.platform != "linux" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
