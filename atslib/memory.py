"""The memory of this program, as the system hands it out."""

from __future__ import annotations

import ctypes
import sys
import threading
import time

# Of mallopt, in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed for the next request, instead of giving it back to the system; whether it could.

    glibc serves a large tensor with pages fresh from the system, which are filled with zeros one by one when they are first
    touched, and returns them when it is freed. A training step on the CPU asks for the same tensors again and again, and spends
    much of its time on this; ``benchmarks/cost_by_size.py kept`` measures how much. The program's memory then stays at its
    peak, and above it where the tensors' sizes change from step to step, as they do where equal patches are shared: call
    :func:`return_freed_memory` now and then, or once :func:`return_freed_memory_when_short`. Without glibc nothing happens.
    """
    mallopt = _of_glibc("mallopt")
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def return_freed_memory() -> bool:
    """Give all memory that is free back to the system, once; whether there was any, and a C library that can."""
    malloc_trim = _of_glibc("malloc_trim")
    return malloc_trim is not None and bool(malloc_trim(ctypes.c_size_t(0)))


def return_freed_memory_when_short(least: float = 0.25, every: float = 0.5) -> threading.Thread:
    """Watch the machine's memory, and call :func:`return_freed_memory` each time that little of it is left; the watching thread.

    What a program keeps another lacks: two trainings side by side fill a machine that has room for both. The thread ends with
    the program. It knows of the machine's memory, not of a container's limit.

    Args:
        least: share of the machine's memory that is to stay available.
        every: seconds between two looks.

    Raises:
        ValueError: a share outside (0, 1), seconds that are none.
    """
    if not 0 < least < 1 or not every > 0:
        raise ValueError(f"least={least}, every={every}: expected a share in (0, 1), and seconds above 0")

    def watch() -> None:
        while (available := _available()) is not None:
            if available < least:
                return_freed_memory()
            time.sleep(every)

    thread = threading.Thread(target=watch, name="return freed memory", daemon=True)
    thread.start()
    return thread


def _available() -> float | None:
    """Share of the machine's memory that programs can still have, as Linux estimates it; None where it does not."""
    try:
        with open("/proc/meminfo") as lines:
            kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        return kilobytes["MemAvailable"] / kilobytes["MemTotal"]
    except (OSError, KeyError, ValueError, IndexError):
        return None


def _of_glibc(name: str):
    """A function of the C library, None where it has none of this name."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None
