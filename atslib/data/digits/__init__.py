"""The handwritten digits that ship with the package: a part of MNIST, see ``NOTICE`` beside this file."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

import numpy as np
from jaxtyping import UInt8


@lru_cache(maxsize=2)
def mnist_digits(split: str) -> tuple[UInt8[np.ndarray, "M 28 28"], UInt8[np.ndarray, " M"]]:
    """10,000 training or 2,000 test digits of MNIST, images and labels.

    Args:
        split: ``"train"`` or ``"test"``; they come from MNIST's own training and test sets.

    >>> images, labels = mnist_digits("test")
    >>> images.shape, labels.shape
    ((2000, 28, 28), (2000,))
    """
    if split not in ("train", "test"):
        raise ValueError(f"split={split!r}: expected 'train' or 'test'")
    with files(__package__).joinpath("mnist_subset.npz").open("rb") as file, np.load(file) as arrays:
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    images.flags.writeable = labels.flags.writeable = False  # shared by whoever asks
    return images, labels
