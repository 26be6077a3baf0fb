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
    peak, and above it where the tensors' sizes change from step to step, as they do where equal patches are shared: call
    :func:`return_freed_memory` now and then. Without glibc nothing happens.
    """
    mallopt = _of_glibc("mallopt")
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def return_freed_memory() -> bool:
    """Give all memory that is free back to the system, once; whether there was any, and a C library that can."""
    malloc_trim = _of_glibc("malloc_trim")
    return malloc_trim is not None and bool(malloc_trim(ctypes.c_size_t(0)))


def _of_glibc(name: str):
    """A function of the C library, None where it has none of this name."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None
