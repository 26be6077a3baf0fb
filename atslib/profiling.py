"""What a method costs: time per sample and peak memory, as the paper measures them (§4.1.2).

One sample is one image: the forward and the backward pass at batch size 1, reading the patches included, the optimiser's
update not. Memory is the most that is held at any moment of it: the image, the weights, activations, gradients.

>>> import torch
>>> from atslib.models import DownsampledCNN
>>> from atslib.networks import Classifier, ResNet8
>>> image, label = torch.randint(0, 256, (1, 3, 100, 100), dtype=torch.uint8), torch.zeros(1, dtype=torch.long)
>>> full, half = (DownsampledCNN(ResNet8(), Classifier(32, 2), scale) for scale in (1, 0.5))
>>> rows = compare(
...     {"full": training_step(full, image, label), "half": training_step(half, image, label)}, warmup=0, repetitions=1
... )
>>> 3 < rows[0]["peak_mb"] / rows[1]["peak_mb"] < 4
True
"""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Int, Shaped
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

MB = 1_000_000


def training_step(
    model: nn.Module, image: Shaped[Tensor, "B C H W"], labels: Int[Tensor, " B"], **options
) -> Callable[[], None]:
    """A function that goes forward and backward through ``model`` once and leaves nothing behind.

    Args:
        model: called as ``model(image, **options)``, returns an :class:`atslib.models.Output`.
        image, labels: what to do it on, on the model's device.
    """

    def step() -> None:
        F.cross_entropy(model(image, **options).logits.float(), labels).backward()
        for parameter in model.parameters():
            parameter.grad = None

    return step


def compare(
    methods: dict[str, Callable[[], object]],
    *,
    warmup: int = 1,
    repetitions: int = 5,
    device: str | torch.device = "cpu",
    memory: bool = True,
) -> list[dict]:
    """Measure several methods in one run, one after the other in each repetition.

    A machine that is slower for a while is so for all of them, so that ratios hold where times do not.

    Args:
        methods: functions to measure, by name; :func:`training_step` makes them.
        warmup: calls of each method that are not measured.
        repetitions: calls of each that are.
        device: where they run; a GPU is waited for before the clock is read.
        memory: whether to measure peak memory too, in one more call of each, which is not timed.

    Returns:
        One dict a method, in the order given. It has ``method``; ``ms``, the median time; ``ms_low`` and ``ms_high``, its
        quartiles; ``ms_all``, every repetition in order; and ``peak_mb`` (millions of bytes), see :func:`peak_memory`.

    Raises:
        ValueError: no method, or no repetition.
    """
    if not methods:
        raise ValueError("no method to measure: expected a dict of functions by name")
    if warmup < 0 or repetitions < 1:
        raise ValueError(f"warmup={warmup}, repetitions={repetitions}: expected at least 0 and 1")
    device = torch.device(device)
    for _ in range(warmup):
        for method in methods.values():
            method()
    times: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(repetitions):
        for name, method in methods.items():
            times[name].append(1000 * _seconds(method, device))
    rows = []
    for name, method in methods.items():
        low, median, high = _quartiles(times[name])
        row = dict(method=name, ms=median, ms_low=low, ms_high=high, ms_all=times[name])
        if memory:
            row["peak_mb"] = peak_memory(method, device) / MB
        rows.append(row)
    return rows


def peak_memory(function: Callable[[], object], device: str | torch.device = "cpu") -> int:
    """The most bytes that tensors hold at any moment while ``function`` runs.

    What was there before counts if ``function`` uses it (the image, the weights), whatever else lives on the device does not.

    On a GPU it is the allocator's peak over its state at the beginning, plus what was there and is used. On the CPU it is the
    sum over live storages, followed from their making to their release. That leaves out scratch space which the kernels take
    for themselves (a convolution's reordered weights and inputs, say): the resident set of a fresh process grew by up to 4 % more
    for Deep MIL and by up to 30 % more for a CNN on a large image; a test holds it between 5 % less and 40 % more.

    Args:
        function: called once; should free what an earlier call left, or count it twice.
        device: where it runs.
    """
    device = torch.device(device)
    tracker = _LiveBytes(device)
    if device.type != "cuda":
        with tracker:
            function()
        return tracker.before + tracker.peak
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    start = torch.cuda.memory_allocated(device)
    with tracker:
        function()
    torch.cuda.synchronize(device)
    return tracker.before + torch.cuda.max_memory_allocated(device) - start


class _LiveBytes(TorchDispatchMode):
    """Follows every storage that operations make or use while it is active.

    Attributes:
        before: bytes of storages that were there before and have been used.
        live, peak: bytes of storages made since, now and at most.
    """

    def __init__(self, device: torch.device):
        super().__init__()
        self.device = device
        self.before = self.live = self.peak = 0
        self._known = weakref.WeakKeyDictionary()  # storages seen so far -> their bytes

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for tensor in tree_iter((args, kwargs)):
            self._see(tensor, made=False)
        result = operation(*args, **kwargs)
        for tensor in tree_iter(result):
            self._see(tensor, made=True)
        return result

    def _see(self, tensor: object, made: bool) -> None:
        if not isinstance(tensor, Tensor) or tensor.device.type != self.device.type:
            return
        storage = tensor.untyped_storage()
        if (size := self._known.get(storage)) is None:
            there = 0 if made else storage.nbytes()
            self.before += there
            size = self._known[storage] = dict(before=there, live=0)
            weakref.finalize(storage, self._forget, size).atexit = False
        # New, or grown since it was last seen, as what an operation writes into may.
        grown = storage.nbytes() - sum(size.values())
        size["live"] += grown
        self.live += grown
        self.peak = max(self.peak, self.live)

    def _forget(self, size: dict[str, int]) -> None:
        self.live -= size["live"]


def _seconds(method: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    method()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return (values[0],) * 3
    return tuple(statistics.quantiles(values, n=4, method="inclusive"))
