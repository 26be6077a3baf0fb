"""The memory of this program, as the system hands it out."""

from __future__ import annotations

import ctypes
import sys

# Of mallopt, in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed for the next request, instead of giving it back to the system; whether it could.

    glibc serves a large tensor with pages fresh from the system, which are filled with zeros one by one when they are first
    touched, and returns them when it is freed. A training step on the CPU asks for the same tensors again and again, and spends
    much of its time on this; ``benchmarks/cost_by_size.py kept`` measures how much. The program's memory then stays at its
    peak. Without glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
