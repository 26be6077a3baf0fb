"""One process, or several that train one model together, each on its share of every batch.

``torchrun --nproc-per-node=G -m atslib.experiments …`` starts several. Lightning Fabric sets them up and averages their
gradients (``pip install lightning-fabric``); one process needs nothing of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

CPU = torch.device("cpu")


class Processes:
    """The processes of a run: this is number ``rank`` of ``world``, and computes on ``device``.

    By itself, the one process that any Python program is.

    Raises:
        ValueError: a device without float64.
    """

    rank = 0
    world = 1

    def __init__(self, device: str | torch.device = "cpu"):
        self.device = torch.device(device)
        if self.device.type == "mps":
            raise ValueError("mps, which lacks the float64 in which locations are drawn and sums kept: expected cpu or cuda")

    def prepare(self, model: nn.Module) -> Callable:
        """What to call instead of the model, so that all processes get the same gradients."""
        return model

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor summed over all processes, in each of them."""
        return tensor

    def wait(self) -> None:
        """Go on when all processes have come here."""

    def share(self, count: int) -> list[int]:
        """Which of the ``count`` images of a batch are this process's."""
        return list(range(self.rank, count, self.world))

    def drawing(self, generator: torch.Generator, rows: Sequence[int], count: int) -> AbstractContextManager:
        """Around a call of the model on these rows of a batch of ``count`` images: it draws what it would for the whole batch."""
        return nullcontext() if len(rows) == count else DrawForAll(generator, rows, count)

    def adding_up(self, prepared: Callable, *, last: bool) -> AbstractContextManager:
        """Around a call of what :meth:`prepare` gave, for a part of a batch, and ``backward``: the last averages gradients."""
        return nullcontext()


class FabricProcesses(Processes):
    """Those that torchrun started, through Lightning Fabric's distributed data parallel.

    Args:
        device: ``"cpu"`` or ``"cuda"``; each process takes the GPU of its local rank.

    Raises:
        ImportError: Lightning Fabric is not installed.
        ValueError: more processes on this machine than it has GPUs.
    """

    def __init__(self, device: str | torch.device = "cpu"):
        local = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
        if torch.device(device).type == "cuda" and local > (gpus := torch.cuda.device_count()):
            raise ValueError(
                f"{local} processes for {gpus or 'no'} GPU{'s' * (gpus != 1)}: each takes one of its own, of those that all of "
                "them see (with Slurm leave out --gpus-per-task)"
            )
        try:
            try:
                from lightning_fabric import Fabric
                from lightning_fabric.strategies import DDPStrategy
            except ImportError:
                from lightning.fabric import Fabric
                from lightning.fabric.strategies import DDPStrategy
        except ImportError as error:
            raise ImportError("several processes need Lightning Fabric: pip install lightning-fabric") from error
        self._fabric = Fabric(
            accelerator="cpu" if torch.device(device).type == "cpu" else "cuda",
            strategy=DDPStrategy(timeout=timedelta(hours=12)),  # the others wait while the first hashes or writes files
            devices=local,
            num_nodes=int(os.environ["WORLD_SIZE"]) // local,
        )
        self._fabric.launch()
        self.rank, self.world = self._fabric.global_rank, self._fabric.world_size
        super().__init__(self._fabric.device)

    def prepare(self, model):
        return self._fabric.setup(model, move_to_device=False)

    def backward(self, loss):
        self._fabric.backward(loss)

    def sum(self, tensor):
        return self._fabric.all_reduce(tensor, reduce_op="sum")

    def wait(self):
        self._fabric.barrier()

    def adding_up(self, prepared, *, last):
        return self._fabric.no_backward_sync(prepared, enabled=not last)


def processes(device: str | torch.device = "cpu") -> Processes:
    """The processes this program was started in: several below torchrun, else one."""
    return FabricProcesses(device) if int(os.environ.get("WORLD_SIZE", 1)) > 1 else Processes(device)


def device_of(model: nn.Module, otherwise: torch.device = CPU) -> torch.device:
    """Where a model's weights are; if it has none, the other."""
    return next((weight.device for weight in model.parameters()), otherwise)


# Functions that give, and methods that fill, a tensor of independent random numbers, row after row: all that can be dealt out.
_DRAW = (torch.rand, torch.randn)
_FILL = (torch.Tensor.random_, torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.exponential_)


class DrawForAll(TorchFunctionMode):
    """Let a model that sees a share of a batch draw what it would draw if it saw all of it.

    Random numbers are drawn from ``generator`` for the whole batch, and the rows of the share are kept: the locations drawn
    for an image depend neither on how many processes there are, nor on the parts in which they see a batch
    (``Settings(micro_batch_size=…)``). (An exception, on the CPU: distinct draws from very peaked attention take further random
    numbers in the process that has the image, and what it draws after them from the same generator differs. Training seeds
    the generator anew for each step.) What is drawn must have the images of the batch, in their order, as its first dimension:
    numbers that images share would be dealt out among them where their count can be divided. Where an image has several rows,
    one for each of its regions (:mod:`atslib.nested`), they follow one another.

    Args:
        generator: the one that the model is called with, in the same state in every process.
        rows: the share, positions in the batch.
        count: images in the batch.

    >>> draw = lambda rows: torch.rand(len(rows), 3, generator=generator)
    >>> generator = torch.Generator().manual_seed(0)
    >>> whole = draw(range(4))
    >>> with DrawForAll(generator.manual_seed(0), rows=[1, 3], count=4):
    ...     torch.equal(draw([1, 3]), whole[[1, 3]])
    True
    """

    def __init__(self, generator: torch.Generator, rows: Sequence[int], count: int):
        super().__init__()
        self.generator, self.rows, self.count = generator, list(rows), count
        step = self.rows[1] - self.rows[0] if len(self.rows) > 1 else 1
        even = step > 0 and self.rows == list(range(self.rows[0], self.rows[-1] + 1, step))
        self._places = slice(self.rows[0], self.rows[-1] + 1, step) if even else self.rows  # a list would be copied to a GPU

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if kwargs.get("generator") is not self.generator:
            return function(*args, **kwargs)
        if function in _FILL and args[0].ndim and (each := self._rows_each(len(args[0]))):
            whole = args[0].new_empty(self.count * each, *args[0].shape[1:])
            return args[0].copy_(self._share(function(whole, *args[1:], **kwargs), each))
        if not args and "size" in kwargs:
            args = (kwargs.pop("size"),)
        sizes = len(args) == 1 and isinstance(args[0], Sequence)
        size = tuple(args[0]) if sizes else args
        if function not in _DRAW or "out" in kwargs or not size or not (each := self._rows_each(size[0])):
            known = ", ".join(f"torch.{one.__name__}" for one in _DRAW) + ", " + ", ".join(one.__name__ for one in _FILL)
            shapes = [tuple(one.shape) if isinstance(one, torch.Tensor) else one for one in (args if args else [size])]
            raise ValueError(
                f"{getattr(function, '__name__', function)} of {', '.join(map(str, shapes))} draws for {len(self.rows)} of "
                f"{self.count} images, in one of several processes or parts of a batch (micro_batch_size): expected {known}, for "
                "one row an image or equally many"
            )
        return self._share(function(self.count * each, *size[1:], **kwargs), each)

    def _rows_each(self, rows: int) -> int:
        """How many of so many rows belong to each image of the share; 0 if they cannot be dealt out."""
        return 0 if rows % len(self.rows) else rows // len(self.rows)

    def _share(self, whole: torch.Tensor, each: int) -> torch.Tensor:
        return whole.unflatten(0, (self.count, each))[self._places].flatten(0, 1)
