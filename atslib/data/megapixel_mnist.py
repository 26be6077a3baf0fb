"""Megapixel MNIST: find the five digits in a large, mostly empty image and say which class occurs most (§4.2).

Images are drawn when they are asked for, from ``(seed, split, number)`` alone: a set of any size takes no memory, and every
machine draws the same pixels.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from atslib.data.digits import mnist_digits
from atslib.data.drawing import count_of_images
from atslib.data.mnist import full_mnist
from atslib.loading import LabelledImages
from atslib.patches import pair

GLYPH = 28  # side of a digit, and of a piece of noise
_BANK = 50  # scribbles per split
_SPLITS = ("train", "test")
_ATTEMPTS = 1000


@dataclass(frozen=True)
class Layout:
    """What lies where in one image; for pictures, never for training.

    Attributes:
        label: class of the image.
        digits: index of each digit in the split's digits; the first ``n_same`` are of the image's class.
        digit_classes: class of each digit.
        digit_corners: row and column of each digit's first pixel, ``(n_digits, 2)``.
        noise_corners: the same of the noise, ``(n_noise, 2)``.
    """

    label: int
    digits: np.ndarray
    digit_classes: np.ndarray
    digit_corners: np.ndarray
    noise_corners: np.ndarray


class MegapixelMNIST(LabelledImages):
    """Images of ``size`` pixels with five digits, three of one class and two of others, among ``n_noise`` pieces of noise.

    The label is the class of the three. Digits and noise are 28 × 28 pixels each and lie anywhere, without overlap.

    Args:
        split: ``"train"`` or ``"test"``; each has its own digits and its own scribbles.
        n_images: how many images there are; 5,000 and 1,000 in the paper.
        size: height and width, one number for a square.
        n_digits, n_same: digits in an image, and how many of them are of its class: more than half, so that it is one.
        n_noise: pieces of noise.
        noise: ``"scribbles"``, two straight strokes each, from a bank of 50 per split, as in the released code; or
            ``"random"``, uniform random pixels, as the paper words it.
        seed: another seed, other images.
        digits: images ``(M, 28, 28)`` uint8 and labels ``(M,)`` to draw from, with all of 0 … 9; the digits that ship with the
            package if None; all of MNIST, from the data root, if ``"full"``.
        variant: ``"paper"``, or ``"released"`` for two things that the released code does otherwise than the paper says:
            noise is laid over the digits wherever it falls, so that 30 % of the images (at 1500² with 50 pieces) have a
            digit that is partly overwritten; and its small view, :meth:`low`, is no view of the image.

    Items are ``(image, label)``: uint8 of shape ``(1, H, W)`` and an int.

    Raises:
        ValueError: an unknown split, noise or variant, a number of images that is none, an image too small for what is to lie in
            it, digits of another type or shape, or without one of the classes.
        DataError: all of MNIST is wanted and not there.

    >>> image, label = MegapixelMNIST("train", n_images=1, size=300, n_noise=8)[0]
    >>> tuple(image.shape), image.dtype, 0 <= label < 10
    ((1, 300, 300), torch.uint8, True)
    """

    classes = tuple(str(digit) for digit in range(10))

    def __init__(
        self,
        split: str = "train",
        n_images: int | None = None,
        size: int | tuple[int, int] = 1500,
        *,
        n_digits: int = 5,
        n_same: int = 3,
        n_noise: int = 50,
        noise: str = "scribbles",
        seed: int = 0,
        digits: tuple[np.ndarray, np.ndarray] | str | None = None,
        variant: str = "paper",
    ):
        if split not in _SPLITS:
            raise ValueError(f"split={split!r}: expected 'train' or 'test'")
        if noise not in ("scribbles", "random"):
            raise ValueError(f"noise={noise!r}: expected 'scribbles' (the released code's) or 'random' (the paper's words)")
        if variant not in ("paper", "released"):
            raise ValueError(f"variant={variant!r}: expected 'paper' or 'released'")
        if isinstance(digits, str) and digits != "full":
            raise ValueError(f"digits={digits!r}: expected 'full', a pair of images and labels, or None")
        if not 1 <= n_same <= n_digits:
            raise ValueError(f"n_same={n_same} of n_digits={n_digits} of one class: expected 1 <= n_same <= n_digits")
        if 2 * n_same <= n_digits:
            raise ValueError(
                f"n_same={n_same} of n_digits={n_digits}: the others may be as many of one class; expected more than half"
            )
        if not (isinstance(n_noise, Integral) and n_noise >= 0):
            raise ValueError(f"n_noise={n_noise!r}: expected a whole number of pieces, 0 for none")
        self._split = split
        self.n_images = count_of_images(n_images, {"train": 5000, "test": 1000}[split])
        self.size = pair(size)
        self.n_digits, self.n_same, self.n_noise, self.noise, self.seed = n_digits, n_same, n_noise, noise, seed
        self.variant = variant
        # A quarter of the area at most, so that placing without overlap stays quick.
        if min(self.size) < GLYPH or (n_digits + n_noise) * (2 * GLYPH) ** 2 > self.size[0] * self.size[1]:
            raise ValueError(
                f"size={self.size}: {n_digits} digits and {n_noise} pieces of noise of {GLYPH} × {GLYPH} pixels do not fit "
                "without crowding; take a larger image or less noise"
            )
        if variant == "released" and n_noise and min(self.size) < 2 * GLYPH:
            raise ValueError(
                f"size={self.size}: noise of the released variant keeps {GLYPH} pixels off the border; expected sides of at "
                f"least {2 * GLYPH}, or n_noise=0"
            )
        if digits is None:
            digits = mnist_digits(split)
        elif isinstance(digits, str):
            digits = full_mnist(split)
        self.digit_images, self.digit_classes = map(np.asarray, digits)
        _check_digits(self.digit_images, self.digit_classes)
        self._of_class = [np.flatnonzero(self.digit_classes == digit) for digit in range(10)]
        self._of_other = [np.flatnonzero(self.digit_classes != digit) for digit in range(10)]
        self._scribbles = scribbles(_BANK, self._random(0, of="bank"))

    def __len__(self) -> int:
        return self.n_images

    @cached_property
    def labels(self) -> Int[Tensor, " N"]:
        """Class of every image."""
        # Nothing is placed, which would take most of the time.
        classes = [_class(self._random(number, of="image")) for number in range(self.n_images)]
        return torch.tensor(classes, dtype=torch.int64)

    def __getitem__(self, number: int) -> tuple[UInt8[Tensor, "1 H W"], int]:
        image = np.zeros(self.size, dtype=np.uint8)
        label = self.draw(number, image)
        return torch.from_numpy(image)[None], label

    def draw(self, number: int, into: np.ndarray) -> int:
        """Draw an image into an array of zeros, and say its label; of an image too large for memory, into a ``numpy.memmap``.

        Args:
            into: uint8 of the images' size; only where a digit or a piece of noise lies is it written.

        Raises:
            ValueError: an array of another shape or type.
        """
        if into.shape != self.size or into.dtype != np.uint8:
            raise ValueError(f"array of {into.dtype} and shape {into.shape}: expected uint8 and {self.size}")
        layout, corners, glyphs = self._pieces(number)
        for (row, column), glyph in zip(corners, glyphs, strict=True):
            into[row : row + GLYPH, column : column + GLYPH] = glyph
        return layout.label

    def low(self, number: int, scale: float = 0.12) -> Float[Tensor, "1 h w"]:
        """The small view as the released code makes it: no downsampling, but small glyphs laid on an empty image.

        Each digit and each piece of noise is blurred and shrunk by itself (to 3 × 3 pixels at 0.12) and its corner is cut down
        to a whole pixel of the view: it lies up to a pixel, eight pixels of the image, above and to the left of its place.
        :func:`atslib.patches.downsample` makes the view of the image itself.

        Values 0 … 1, float32. Raises a ValueError unless ``variant="released"``.
        """
        if self.variant != "released":
            raise ValueError(
                f"variant={self.variant!r} has no view of its own: use atslib.patches.downsample, or variant='released'"
            )
        side = round(GLYPH * scale)
        if not (0 < scale <= 1 and side >= 1):
            raise ValueError(f"scale={scale}: expected at most 1, and a glyph of {GLYPH} pixels to have one left")
        _, corners, glyphs = self._pieces(number)
        view = np.zeros([int(length * scale) for length in self.size], dtype=np.uint8)
        shrink = _shrinking(GLYPH, side)
        for (row, column), glyph in zip((corners * scale).astype(int), glyphs, strict=True):
            part = view[row : row + side, column : column + side]  # cut off at the border
            part[:] = (shrink @ glyph @ shrink.T)[: part.shape[0], : part.shape[1]].astype(np.uint8)
        return torch.from_numpy(view)[None].float() / 255

    def layout(self, number: int) -> Layout:
        """What lies where in image ``number``."""
        return self._compose(number)[0]

    def _pieces(self, number: int) -> tuple[Layout, np.ndarray, np.ndarray]:
        """The layout of an image, and corners and pixels of all that is laid down, in that order."""
        layout, random = self._compose(number)
        if self.noise == "scribbles":
            pieces = self._scribbles[random.randint(0, _BANK, self.n_noise)]
        else:
            pieces = random.randint(0, 256, (self.n_noise, GLYPH, GLYPH)).astype(np.uint8)
        corners = np.concatenate([layout.digit_corners, layout.noise_corners])
        return layout, corners, np.concatenate([self.digit_images[layout.digits], pieces])

    def _compose(self, number: int) -> tuple[Layout, np.random.RandomState]:
        """Choose label, digits and places; the generator goes on with the noise."""
        number = range(self.n_images)[operator.index(number)]  # IndexError beyond the end, negative numbers from the end
        random = self._random(number, of="image")
        label = _class(random)
        same, other = self._of_class[label], self._of_other[label]
        digits = np.concatenate(
            [
                same[random.randint(0, len(same), self.n_same)],
                other[random.randint(0, len(other), self.n_digits - self.n_same)],
            ]
        )
        if self.variant == "paper":
            corners = self._place(random, self.n_digits + self.n_noise)
        else:
            # Noise keeps off the border by a glyph, and off nothing else.
            spans = np.array(self.size) - 2 * GLYPH
            noise = (random.random_sample((self.n_noise, 2)) * spans).astype(int) + GLYPH
            corners = np.concatenate([self._place(random, self.n_digits), noise])
        layout = Layout(
            label=label,
            digits=digits,
            digit_classes=self.digit_classes[digits],
            digit_corners=corners[: self.n_digits],
            noise_corners=corners[self.n_digits :],
        )
        return layout, random

    def _place(self, random: np.random.RandomState, count: int) -> np.ndarray:
        """Corners of glyphs, none overlapping another: (count, 2)."""
        highest = np.array(self.size) - GLYPH + 1

        def draw(n: int) -> np.ndarray:
            return np.stack([random.randint(0, high, n) for high in highest], axis=1)

        corners = draw(count)
        for _ in range(_ATTEMPTS):
            overlaps = (np.abs(corners[:, None] - corners[None]) < GLYPH).all(-1)  # (count, count)
            late = np.tril(overlaps, -1).any(1)  # those that lie on one placed before
            if not late.any():
                return corners
            corners[late] = draw(int(late.sum()))
        raise ValueError(f"size={self.size}: no room found for {count} glyphs; take a larger image or less noise")

    def _random(self, number: int, of: str) -> np.random.RandomState:
        # RandomState's streams are frozen for good (NumPy NEP 19), those of default_rng are not.
        key = [self.seed, _SPLITS.index(self._split), ("image", "bank").index(of), number]
        return np.random.RandomState(np.random.PCG64(np.random.SeedSequence(key)))


def _class(random: np.random.RandomState) -> int:
    """Class of an image, the first thing that is drawn of it."""
    return int(random.randint(0, 10))


def _check_digits(images: np.ndarray, labels: np.ndarray) -> None:
    if images.dtype != np.uint8:
        raise ValueError(f"digits of type {images.dtype}: expected uint8, 0 … 255")
    if images.ndim != 3 or images.shape[1:] != (GLYPH, GLYPH):
        raise ValueError(f"digits of shape {images.shape}: expected (M, {GLYPH}, {GLYPH})")
    if labels.shape != (len(images),):
        raise ValueError(f"labels of shape {labels.shape} for {len(images)} digits: expected ({len(images)},), one a digit")
    if (found := np.unique(labels).tolist()) != list(range(10)):
        raise ValueError(f"digits of the classes {found}: expected all of 0 … 9, and no others")


def _shrinking(fine: int, coarse: int) -> Float[np.ndarray, "coarse fine"]:
    """Blur and linear interpolation from fine to coarse pixels: the usual shrinking with anti-aliasing, dark outside."""
    factor = fine / coarse
    sigma = max(0.0, (factor - 1) / 2)
    at = np.arange(fine)
    blur = np.exp(-((at[:, None] - at[None]) ** 2) / (2 * sigma**2)) if sigma > 0 else np.eye(fine)
    reach = np.arange(-math.ceil(4 * sigma), math.ceil(4 * sigma) + 1)
    blur = blur / (np.exp(-(reach**2) / (2 * sigma**2)).sum() if sigma > 0 else 1)
    centre = (np.arange(coarse) + 0.5) * factor - 0.5
    return np.clip(1 - np.abs(centre[:, None] - at[None]), 0, None) @ blur


def scribbles(count: int, random: np.random.RandomState) -> UInt8[np.ndarray, "count 28 28"]:
    """Pieces of noise of two straight strokes each, one pixel wide, of intensity 0.8 to 1.

    A stroke runs from a corner to a random point of the far sides. Whole numbers only, so that no machine rounds otherwise.
    """
    pieces = np.zeros((count, GLYPH, GLYPH), dtype=np.uint8)
    far = GLYPH - 1
    for piece in pieces:
        for _ in range(2):
            along = np.arange(GLYPH)
            across = (2 * along * random.randint(0, GLYPH) + far) // (2 * far)  # to the nearest pixel
            rows, columns = (along, across) if random.randint(0, 2) else (across, along)
            if random.randint(0, 2):
                rows = far - rows
            if random.randint(0, 2):
                columns = far - columns
            piece[rows, columns] = 255
    intensity = random.randint(204, 256, pieces.shape).astype(np.uint8)
    return np.where(pieces > 0, intensity, 0).astype(np.uint8)
