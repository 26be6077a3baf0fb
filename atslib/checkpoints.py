"""Files that are whole or not there; checkpoints, all that a training run needs to go on; and weights alone."""

from __future__ import annotations

import errno
import glob
import io
import os
import pickle
import re
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from atslib.processes import device_of

_STALE = 3600  # seconds after which what a killed process has left beside a checkpoint is nobody's


@contextmanager
def whole(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file to write beside its place, moved there at the end; makes its folder.

    Whatever happens, a kill, a power cut, another process at the same place: at ``path`` there is what was there before, or all
    of what was written. Where writing fails nothing is left behind.

    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp(), "new", "file.txt")
    >>> with whole(place) as file:
    ...     _ = file.write(b"all of it")
    >>> place.read_text(), len(list(place.parent.iterdir()))
    ('all of it', 1)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{uuid4().hex}.part")  # a name of its own for each writer
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the new name, too, shall outlive a power cut
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        except OSError:
            pass  # some file systems do not know this of a folder
        finally:
            os.close(folder)


def save_checkpoint(
    path: str | os.PathLike, model: nn.Module, optimiser: torch.optim.Optimizer, settings: dict, position: dict
) -> None:
    """Write beside the place and rename: a process killed at any moment leaves this checkpoint or the one before it.

    NumPy's numbers and arrays become plain numbers and lists of them: a learning rate out of ``np.logspace``, or what a caller
    has added to an epoch's entry, would make a file that is not read again.

    Args:
        settings: what must be the same when the run goes on.
        position: where the run is.
    """
    device = device_of(model)  # dropout draws where the model is
    random = dict(cpu=torch.get_rng_state(), cuda=[torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])
    state = dict(model=model.state_dict(), random=random)
    state |= dict(optimiser=_plain(optimiser.state_dict()), settings=_plain(settings), position=_plain(position))
    path = Path(path)
    for part in path.parent.glob(f"{glob.escape(path.name)}.*.part"):  # of a process that was killed while it wrote
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > _STALE:
                part.unlink()
    content = io.BytesIO()
    torch.save(state, content)  # into a file that cannot grow it fails without saying why
    with whole(path) as file:
        file.write(content.getbuffer())


def _plain(value: object) -> object:
    """The same without NumPy, which ``weights_only`` does not read."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    if type(value) is dict:
        return {_plain(key): _plain(part) for key, part in value.items()}
    return value


def read_position(path: str | os.PathLike) -> dict:
    """Where the run of a checkpoint is."""
    return torch.load(Path(path).expanduser(), map_location="cpu", weights_only=True)["position"]


def save_weights(path: str | os.PathLike, model: nn.Module) -> None:
    """Write the weights of a model, and nothing else, as safetensors; :func:`load_weights` reads them.

    The file is whole or not there. What builds the model is not in it: number and size of patches, scale, fill, estimator; nor
    whether it or a part of it is compiled.

    Raises:
        ValueError: another ending than ``.safetensors``, by which the file is known again; a state that holds something else
            than tensors; the model before the path.
    """
    _check_order(path, model)
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"{path}: expected a name that ends in .safetensors")
    state = model.state_dict()
    if others := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"{others[0]} in the model's state is a {type(state[others[0]]).__name__}: expected tensors only")
    # Training leaves weights channels last, and two parts may share one: safetensors wants contiguous ones, each by itself.
    apart = {_plain_name(name): value.detach().clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    with whole(Path(path).expanduser()) as file:
        file.write(save(apart))


def load_weights(path: str | os.PathLike, model: nn.Module) -> None:
    """Put the weights of a checkpoint into the model, and nothing else: to use what has been trained so far.

    A file of :func:`save_weights` (by its name, ``.safetensors``), or one that holds a ``state_dict`` alone, from
    ``torch.save(model.state_dict(), path)``, will do as well.

    Raises:
        ValueError: no checkpoint of ours.
        RuntimeError: one of another model.
    """
    _check_order(path, model)
    path = Path(path).expanduser()
    try:
        tensors_only = path.suffix == ".safetensors"
        state = load_file(path) if tensors_only else torch.load(path, map_location="cpu", weights_only=True)
        weights = state if all(isinstance(value, Tensor) for value in state.values()) else state["model"]
        if not isinstance(weights, dict):
            raise TypeError("a checkpoint holds dicts")
    except (*_DAMAGE, SafetensorError) as error:
        raise ValueError(f"{path} is no checkpoint that can be read ({type(error).__name__})") from error
    names = {_plain_name(name): name for name in model.state_dict()}
    model.load_state_dict({names.get(_plain_name(name), name): value for name, value in weights.items()})


def _check_order(path: object, model: object) -> None:
    if isinstance(path, nn.Module) or not isinstance(model, nn.Module):
        raise ValueError(f"{type(path).__name__} and {type(model).__name__}: expected the path of a file, then the model")


def _plain_name(name: str) -> str:
    """The name of a weight without what ``torch.compile`` puts into it."""
    return name.replace("_orig_mod.", "")


def load_checkpoint(
    path: str | os.PathLike,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    settings: dict,
    free: Collection[str] = (),
    newer: Collection[str] = (),
) -> dict:
    """Put model, optimiser and the global random numbers into the state they were saved in; returns the position.

    Of several processes all get the numbers of the first, which wrote it.

    Args:
        settings: what must be as it was, but for those named in ``free``, and those in ``newer`` if the checkpoint has not got
            them.

    Raises:
        ValueError: no checkpoint of ours, or one of other settings; the differences are listed and nothing is changed.
        OSError: it cannot be read now; that says nothing about what is in it.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        theirs, position, weights, moments = parts = [state[key] for key in ("settings", "position", "model", "optimiser")]
        if not all(isinstance(part, dict) for part in parts):
            raise TypeError("a checkpoint holds dicts")
        generators = state["random"]["cpu"], list(state["random"]["cuda"])
        groups = [len(group["params"]) for group in moments["param_groups"]]
    except (*_DAMAGE, OSError) as error:
        # Too little memory, no right to read, a lost connection: nothing is wrong with the file. PyTorch's reader calls one that
        # is cut short an invalid argument.
        if "allocate" in str(error) or (isinstance(error, OSError) and error.errno != errno.EINVAL):
            raise
        said = type(error).__name__
        if foreign := re.search(r"GLOBAL (\S+)", str(error)):  # whole, but with something in it that PyTorch does not trust
            said = f"it holds a {foreign[1]}, put into an epoch's entry, the optimiser or the model's state"
        raise ValueError(f"{path} is no checkpoint that can be read ({said}): delete it to start anew") from error
    free = {*free, *(key for key in newer if key not in theirs)}
    means = dict(frozen=" (a digest of the names of the parameters without requires_grad)")
    differ = [
        f"{key} was {theirs.get(key)!r}, is {settings.get(key)!r}{means.get(key, '')}"
        for key in [*settings, *(key for key in theirs if key not in settings)]
        if theirs.get(key) != settings.get(key) and key not in free
    ]
    shapes, saved = ({key: _kind(value) for key, value in some.items()} for some in (model.state_dict(), weights))
    differ += [f"{key} was {saved.get(key)}, is {shapes.get(key)}" for key in shapes | saved if saved.get(key) != shapes.get(key)]
    ours = [len(group["params"]) for group in optimiser.param_groups]
    if groups != ours:
        differ += [f"parameters in the groups of the optimiser were {groups}, are {ours}"]
    if differ:
        raise ValueError(f"{path} is a checkpoint of other settings ({'; '.join(differ)}): delete it or train as it says")
    model.load_state_dict(weights)
    optimiser.load_state_dict(moments)
    torch.set_rng_state(generators[0])
    device = device_of(model)
    if generators[1] and device.type == "cuda":
        torch.cuda.set_rng_state(generators[1][-1], device)
    return position


# What reading a damaged file, or one that is no checkpoint, raises.
_DAMAGE = (RuntimeError, EOFError, LookupError, TypeError, AttributeError, ValueError, pickle.UnpicklingError)


def _kind(value: object) -> str:
    """Shape and type of a weight; modules may keep other things beside them (``get_extra_state``)."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
