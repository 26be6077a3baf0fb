"""What the generated images are drawn with: smooth noise, blending, and a random stream for each image.

NumPy only, so that a machine without an imaging library draws them too.
"""

from __future__ import annotations

from numbers import Integral

import numpy as np
from jaxtyping import Float, Int


def stream(*key: int) -> np.random.RandomState:
    """A random stream that depends on the key alone; its numbers are frozen for good (NumPy NEP 19)."""
    return np.random.RandomState(np.random.PCG64(np.random.SeedSequence(key)))


def count_of_images(given: int | None, usual: int) -> int:
    """How many images a set has, ``usual`` where nothing is said. Raises a ValueError for what is no whole number from 0."""
    if given is None:
        return usual
    if not isinstance(given, Integral) or given < 0:
        raise ValueError(f"n_images={given!r}: expected a whole number, at least 0")
    return int(given)


def balanced_labels(n_images: int, n_classes: int, *key: int) -> Int[np.ndarray, " N"]:
    """Labels in random order, each class once in every ``n_classes`` images; more images leave the first ones as they are."""
    random = stream(*key)
    blocks = [random.permutation(n_classes) for _ in range(-(-n_images // n_classes))]
    return np.concatenate([np.empty(0, np.int64), *blocks])[:n_images].astype(np.int64)


def noise(
    random: np.random.RandomState, size: tuple[int, int], cell: float | tuple[float, float], octaves: int = 1
) -> Float[np.ndarray, "H W"]:
    """Smooth random values between 0 and 1, 1/2 on average, that change over about ``cell`` pixels (down, across).

    Each further octave has cells of half the size and half the weight.
    """
    cells = (cell, cell) if np.isscalar(cell) else cell
    total, weight, weights = np.zeros(size, np.float32), 1.0, 0.0
    for _ in range(octaves):
        shape = [int(side / max(step, 1)) + 2 for side, step in zip(size, cells, strict=True)]
        total += weight * _stretch(random.random_sample(shape).astype(np.float32), size)
        weights += weight
        weight, cells = weight / 2, tuple(step / 2 for step in cells)
    return total / weights


def _stretch(grid: Float[np.ndarray, "h w"], size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
    """Linear interpolation, smoothed at the grid's points."""
    for axis, side in enumerate(size):
        at = np.linspace(0, grid.shape[axis] - 1, side, endpoint=False)
        low = at.astype(np.intp)
        part = (at - low).astype(np.float32)
        part = part * part * (3 - 2 * part)
        part = part[:, None] if axis == 0 else part[None]
        first = grid.take(low, axis)
        grid = first + part * (grid.take(low + 1, axis) - first)
    return grid


def blend(image: Float[np.ndarray, "H W C"], colour: Float[np.ndarray, "... C"] | tuple, cover: Float[np.ndarray, "H W"]) -> None:
    """Lay a colour over the image, in place, as far as ``cover`` (0 … 1) says."""
    image += cover[..., None] * (np.asarray(colour, np.float32) - image)


def inside(value: Float[np.ndarray, "*any"], soft: float = 1.0) -> Float[np.ndarray, "*any"]:
    """1 where ``value`` (a distance in pixels, positive inside) is well above 0, 0 well below, over ``soft`` pixels."""
    return np.clip(value / soft + 0.5, 0, 1)


def window(row: float, column: float, reach: float, size: tuple[int, int]) -> tuple[slice, slice]:
    """The part of an image of ``size`` within ``reach`` pixels of a point; may be empty."""
    return tuple(
        slice(min(side, max(0, int(np.floor(at - reach)))), max(0, min(side, int(np.ceil(at + reach)) + 1)))
        for at, side in zip((row, column), size, strict=True)
    )


def to_bytes(image: Float[np.ndarray, "H W C"]) -> np.ndarray:
    """Values 0 … 1 as uint8, (C, H, W)."""
    return np.ascontiguousarray((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(2, 0, 1))
