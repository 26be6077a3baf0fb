"""Checkpoints: all that a training run needs to go on, in one file that is whole or not there."""

from __future__ import annotations

import os
import pickle
from collections.abc import Collection
from pathlib import Path

import torch
from torch import nn


def save_checkpoint(
    path: str | os.PathLike, model: nn.Module, optimiser: torch.optim.Optimizer, settings: dict, position: dict
) -> None:
    """Write beside the place and rename: a process killed at any moment leaves this checkpoint or the one before it.

    Args:
        settings: what must be the same when the run goes on.
        position: where the run is.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    random = dict(cpu=torch.get_rng_state(), cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [])
    state = dict(model=model.state_dict(), optimiser=optimiser.state_dict(), random=random, settings=settings, position=position)
    with part.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def read_position(path: str | os.PathLike) -> dict:
    """Where the run of a checkpoint is."""
    return torch.load(path, map_location="cpu", weights_only=True)["position"]


def load_checkpoint(
    path: str | os.PathLike, model: nn.Module, optimiser: torch.optim.Optimizer, settings: dict, free: Collection[str] = ()
) -> dict:
    """Put model, optimiser and the global random numbers into the state they were saved in; returns the position.

    Args:
        settings: what must be as it was, but for those named in ``free``.

    Raises:
        ValueError: no checkpoint of ours, or one of other settings; the differences are listed and nothing is changed.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        theirs, position = state["settings"], state["position"]
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is no checkpoint that can be read ({type(error).__name__}): delete it to start anew") from error
    differ = [
        f"{key} was {theirs.get(key)!r}, is {settings.get(key)!r}"
        for key in [*settings, *(key for key in theirs if key not in settings)]
        if theirs.get(key) != settings.get(key) and key not in free
    ]
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    saved = {key: tuple(value.shape) for key, value in state["model"].items()}
    differ += [f"{key} was {saved.get(key)}, is {shapes.get(key)}" for key in shapes | saved if saved.get(key) != shapes.get(key)]
    if differ:
        raise ValueError(f"{path} is a checkpoint of other settings ({'; '.join(differ)}): delete it or train as it says")
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    torch.set_rng_state(state["random"]["cpu"])
    if state["random"]["cuda"] and len(state["random"]["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["random"]["cuda"])
    return position
