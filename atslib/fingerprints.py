"""What a checkpoint says of models, functions, optimisers and images, which it does not hold: enough to see that one is another.

In words or as a digest, and the same in every process: without addresses in memory.
"""

from __future__ import annotations

import dis
import hashlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from types import CodeType

import numpy as np
import torch
from torch import Tensor, nn

from atslib.loading import InMemory, LabelledImages, from_array, part_of


def how_it_computes(model: nn.Module) -> str:
    """How a model computes: what its weights do not tell, and a checkpoint has to.

    In words for the parts that are not PyTorch's own, as a digest for all. Deep MIL's chunk changes results by rounding only and
    is left out, and so are addresses in memory.
    """
    # Of a part that computes as one of PyTorch's own does the name of that.
    said = [
        (getattr(part, "computes_as", type(part)), re.sub(r", chunk=\w+| at 0x\w+", "", part.extra_repr()))
        for part in model.modules()
    ]
    own = [f"{kind.__name__}({text})" for kind, text in said if text and not kind.__module__.startswith("torch.")]
    layers = "; ".join(f"{kind.__name__}({text})" for kind, text in said)
    return "; ".join([*own, f"layers {hashlib.sha256(layers.encode()).hexdigest()[:8]}"])


def functions_of(model: nn.Module) -> str:
    """What the functions do that parts of a model hold, a saliency or a mask, say; not this package's and PyTorch's own."""
    said = []
    for place, part in model.named_modules():
        for name, value in vars(part).items():
            function = value.func if isinstance(value, partial) else value
            if inspect.isfunction(function) and function.__module__.partition(".")[0] not in ("atslib", "torch"):
                said.append(" ".join(filter(None, (f"{place}.{name}", code_of(function), held_by(function)))))
    return "; ".join(said)


# Of one set or another there is one of them: a digest of the names of its files, of a grid of pixels of images in memory, or of
# the numbers of its images in a set that says no more.
KINDS_OF_IMAGES = ("image_files", "image_grid", "image_numbers")
_GRID = 32  # pixels a side: much of an image may be empty


def which_images(dataset: object) -> dict[str, str]:
    """What tells images of one training from another's as cheaply as can be: two folds may have labels in the same order.

    No file is read and nothing drawn. Empty where a set tells nothing.
    """
    numbers: Sequence[int] | None = None
    while True:
        within = getattr(dataset, "dataset", None)
        if (inner := part_of(dataset)) is not None:
            dataset, mine = inner
            numbers = mine if numbers is None else [mine[number] for number in numbers]
        elif type(within) is not type(dataset) and isinstance(within, LabelledImages) and len(within) == len(dataset):
            dataset = within  # padded, say
        else:
            break
    chosen = range(len(dataset)) if numbers is None else [int(number) for number in numbers]
    if (files := _files_of(dataset)) is not None:
        paths = [files[number] for number in chosen]
        above = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
        said = "\n".join(os.path.relpath(path, above or ".") for path in paths)  # wherever the data are
        return dict(image_files=_digest(os.fsencode(said)))
    if isinstance(dataset, InMemory):
        return dict(image_grid=_digest(_grid_of(dataset.images)[torch.as_tensor(chosen).long()].cpu().numpy().tobytes()))
    if isinstance(dataset, list | tuple):
        images = [item[0] for item in (dataset[number] for number in chosen) if isinstance(item, tuple | list) and item]
        if len(images) == len(chosen) and all(isinstance(image, Tensor | np.ndarray) and image.ndim > 1 for image in images):
            grids = (from_array(_grid_of(image)) if isinstance(image, np.ndarray) else _grid_of(image) for image in images)
            bits = (grid.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() for grid in grids)
            return dict(image_grid=_digest(b"".join(bits)))
    return {} if numbers is None else dict(image_numbers=_digest(str(chosen).encode()))


def _files_of(dataset: object) -> list[str] | None:
    """The files of a set that has one for each image."""
    files = getattr(dataset, "files", None)
    if not isinstance(files, list | tuple) or len(files) != len(dataset):
        return None
    return [os.fspath(file) for file in files] if all(isinstance(file, str | os.PathLike) for file in files) else None


def _grid_of(images: Tensor | np.ndarray) -> Tensor | np.ndarray:
    """A few pixels of each."""
    return images[..., :: max(1, images.shape[-2] // _GRID), :: max(1, images.shape[-1] // _GRID)]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


def named(function: Callable | None) -> str | None:
    """What a checkpoint says of an augmentation or a loss: its ``repr``, without addresses, which no other process shares."""
    return None if function is None else re.sub(r" at 0x\w+", "", repr(function))


def code_of(function: Callable | None) -> str:
    """A digest of what a function does, as this version of Python puts it; empty where it is no function of Python's."""
    if isinstance(function, partial):
        return code_of(function.func)
    if not inspect.isfunction(function):
        return ""

    def said(part: object) -> str:
        if isinstance(part, CodeType):
            constants = [said(constant) for constant in part.co_consts if constant != function.__doc__]
            return repr((part.co_code, part.co_names, part.co_varnames, constants))
        if isinstance(part, frozenset):  # in an order that differs from process to process
            return repr(sorted(map(said, part)))
        return repr([said(one) for one in part]) if isinstance(part, tuple) else repr(part)

    digest = hashlib.sha256(said(function.__code__).encode()).hexdigest()[:8]
    return f"{digest} (Python {sys.version_info.major}.{sys.version_info.minor})"


def held_by(function: Callable | None) -> str:
    """The numbers and words that a function has as defaults, or has taken from where it was made and does not change."""
    if isinstance(function, partial):
        return held_by(function.func)
    if not inspect.isfunction(function):
        return ""
    holds = dict(enumerate(function.__defaults__ or ())) | (function.__kwdefaults__ or {})
    counters = {step.argval for step in dis.get_instructions(function) if step.opname == "STORE_DEREF"}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # a name that has no value yet
            holds |= {} if name in counters else {name: cell.cell_contents}
    plain = {name: value for name, value in holds.items() if isinstance(value, str | int | float | complex)}
    return repr(plain) if plain else ""


def parameters_of(optimiser: torch.optim.Optimizer, model: nn.Module) -> list[str]:
    """Of each group of an optimiser a digest of the names of its parameters, in their order."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    each = [" ".join(names.get(parameter, "another") for parameter in group["params"]) for group in optimiser.param_groups]
    return [hashlib.sha256(text.encode()).hexdigest()[:8] for text in each]


# Of an optimiser's group: the parameters, and how the same step is computed.
_NO_SETTINGS = ("params", "foreach", "fused", "capturable", "differentiable")


def settings_of(optimiser: torch.optim.Optimizer) -> str:
    """Kind of an optimiser, and of each of its groups all but the parameters, in words."""
    groups = []
    for group in optimiser.param_groups:
        kept = {key: value for key, value in group.items() if key not in _NO_SETTINGS}
        options = {key: value.tolist() if isinstance(value, Tensor) else value for key, value in kept.items()}
        groups.append(", ".join(f"{key} {re.sub(r' at 0x[0-9A-Fa-f]+', '', str(value))}" for key, value in options.items()))
    return f"{type(optimiser).__name__}: {'; '.join(groups)}"
