"""Keeping freed memory: what it answers where it can and where it cannot, and that pages are no longer fetched anew."""

import ctypes
import platform
import subprocess
import sys

import pytest

from atslib import memory
from atslib.memory import keep_freed_memory, return_freed_memory

GLIBC = sys.platform.startswith("linux") and platform.libc_ver()[0] == "glibc"

# Minor page faults while the same large tensor is made ten times; each page of a fresh mapping costs one.
FAULTS = """
import resource, sys
import torch
from atslib.memory import keep_freed_memory

torch.set_num_threads(1)
kept = keep_freed_memory() if sys.argv[1] == "keep" else None
make = lambda: torch.zeros(10_000_000)  # more than 32 MB: below, glibc learns to keep it by itself
for _ in range(3):
    make()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    make()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not GLIBC, reason="mallopt is glibc's")
def test_freed_memory_is_used_again():
    """In programs of their own: what is set cannot be unset."""

    def run(how):
        outcome = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        answer, faults = outcome.stdout.split()
        return answer, int(faults)

    (_, returned), (answer, kept) = run("return"), run("keep")
    assert answer == "True"
    # 40 MB, ten times, are 98,000 pages of 4 kB; pages may be larger.
    assert kept < returned / 4


# Resident pages with tensors freed between others that stay, before and after they are given back.
GIVEN_BACK = """
import torch
from atslib.memory import keep_freed_memory, return_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1])

keep_freed_memory()
kept = []
for _ in range(20):
    freed = torch.ones(5_000_000)
    kept.append(torch.ones(100))  # between two large ones, so that the heap's end does not move back
    kept.append(freed)
del freed
before = resident()
kept = kept[::2]
between = resident()
print(return_freed_memory(), between / before, resident() / before)
"""


@pytest.mark.skipif(not GLIBC, reason="malloc_trim is glibc's")
def test_kept_memory_is_given_back():
    outcome = subprocess.run([sys.executable, "-c", GIVEN_BACK], capture_output=True, text=True, check=True)
    answer, kept, left = outcome.stdout.split()
    assert answer == "True"
    assert float(kept) > 0.9 > 0.7 > float(left)  # 400 MB of it


def test_memory_is_given_back_when_little_is_left(monkeypatch):
    left, returned = iter([0.5, 0.2, 0.3, 0.1]), []
    at = [0]

    def available():
        at[0] += 1
        return next(left, None)  # None ends the watch

    monkeypatch.setattr(memory, "_available", available)
    monkeypatch.setattr(memory, "return_freed_memory", lambda: returned.append(at[0]))
    thread = memory.return_freed_memory_when_short(least=0.25, every=0.001)
    thread.join(timeout=10)
    assert thread.daemon and not thread.is_alive()
    assert returned == [2, 4]
    for wrong in (dict(least=0), dict(least=1), dict(every=0)):
        with pytest.raises(ValueError, match="expected a share in"):
            memory.return_freed_memory_when_short(**wrong)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="read from Linux's /proc")
def test_share_of_memory_that_is_available():
    assert 0 < memory._available() < 1


def test_a_system_that_does_not_say_what_is_available(monkeypatch):
    def refuse(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr("builtins.open", refuse)
    assert memory._available() is None


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_elsewhere_nothing_happens(monkeypatch, system):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("no C library is asked"))
    assert keep_freed_memory() is False
    assert return_freed_memory() is False


def test_without_glibc(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())  # no mallopt, as in musl
    assert keep_freed_memory() is False

    def refuse(name):
        raise OSError("no C library")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert keep_freed_memory() is False


@pytest.mark.parametrize("answers, could", [((1, 1), True), ((0, 1), False), ((1, 0), False)])
def test_answer_is_the_librarys(monkeypatch, answers, could):
    asked = []

    class Library:
        def mallopt(self, parameter, value):
            asked.append((parameter, value))
            return answers[len(asked) - 1]

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    assert keep_freed_memory() is could
    assert asked[0] == (-4, 0)  # M_MMAP_MAX of glibc's malloc.h: nothing is mapped for itself
