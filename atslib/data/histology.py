"""Drawn images in the manner of stained tissue, for when the colon cancer images are not there.

Nothing in them comes from a slide: they have the *task* of the colon cancer set (is there at least one nucleus of one kind?),
its size and roughly its look, so that a page can be run with nothing downloaded. Errors measured on them say how a method
does on this task, not how it does on tissue.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from atslib.data.drawing import balanced_labels, count_of_images, inside, noise, stream, to_bytes, window
from atslib.loading import LabelledImages
from atslib.patches import pair

KINDS = ("glandular", "other")

# How much of red, green, blue light the two stains take away (after Ruifrok & Johnston, 2001): haematoxylin colours nuclei
# blue, eosin the rest pink.
_HAEMATOXYLIN = np.array([0.65, 0.70, 0.29], np.float32)
_EOSIN = np.array([0.10, 0.95, 0.28], np.float32)
_STAMP = 31  # side of the square a nucleus is drawn in
_SPLITS = ("train", "test")


@dataclass(frozen=True)
class Tissue:
    """What lies where in one image; for pictures, never for training.

    Attributes:
        label: 1 if there are glandular nuclei.
        nuclei: kind -> positions (x, y) in pixels, ``(M, 2)``.
    """

    label: int
    nuclei: dict[str, Float[np.ndarray, "M 2"]]


@dataclass(frozen=True)
class _Nucleus:
    """Position, half axes (pixels), direction, and how it takes the stain: all over, at the rim, in a spot."""

    x: float
    y: float
    long: float
    short: float
    angle: float
    body: float
    rim: float
    spot: float


class GeneratedHistology(LabelledImages):
    """Drawn tissue; the label says whether one or two small glands lie in it.

    Every image has fibres, scattered small and spindle-shaped nuclei, and things that look much like a gland from afar:
    a crowd of small dark nuclei, a vessel. Only the nuclei of a gland are large, pale inside and dark at the rim, which can
    be seen at full resolution only.

    Args:
        split: ``"train"`` or ``"test"``.
        n_images: how many images there are; 400 and 200 unless given.
        size: height and width, one number for a square.
        max_glands: most glands in a positive image.
        seed: another seed, other images.

    Items are ``(image, label)``: uint8 of shape ``(3, H, W)`` and an int. Half of the images are positive.

    >>> image, label = GeneratedHistology(n_images=2)[0]
    >>> tuple(image.shape), image.dtype, label in (0, 1)
    ((3, 500, 500), torch.uint8, True)
    """

    classes = ("no gland", "gland")

    def __init__(
        self,
        split: str = "train",
        n_images: int | None = None,
        size: int | tuple[int, int] = 500,
        *,
        max_glands: int = 2,
        seed: int = 0,
    ):
        if split not in _SPLITS:
            raise ValueError(f"split={split!r}: expected 'train' or 'test'")
        self.size = pair(size)
        if min(self.size) < 128:
            raise ValueError(f"size={self.size}: expected at least 128 × 128 pixels, the room that a gland needs")
        if max_glands < 1:
            raise ValueError(f"max_glands={max_glands}: expected at least 1")
        self._split, self.seed, self.max_glands = split, seed, max_glands
        n_images = count_of_images(n_images, {"train": 400, "test": 200}[split])
        self.labels = torch.from_numpy(balanced_labels(n_images, 2, seed, _SPLITS.index(split), 0))

    def __getitem__(self, number: int) -> tuple[UInt8[Tensor, "3 H W"], int]:
        image, tissue = self._draw(number)
        return torch.from_numpy(image), tissue.label

    def tissue(self, number: int) -> Tissue:
        """What lies where in image ``number``."""
        return self._draw(number)[1]

    def _draw(self, number: int) -> tuple[UInt8[np.ndarray, "3 H W"], Tissue]:
        number = range(len(self))[operator.index(number)]  # IndexError beyond the end, negative numbers from the end
        random = stream(self.seed, _SPLITS.index(self._split), 1, number)
        label = int(self.labels[number])
        height, width = self.size
        haematoxylin, eosin = _stroma(random, self.size)
        glandular: list[_Nucleus] = []
        other: list[_Nucleus] = []

        # Places for what fills room, apart from each other where there is room.
        kinds = ["gland"] * (random.randint(1, self.max_glands + 1) if label else 0)
        kinds += ["crowd"] * random.randint(1, 3) + ["vessel"] * random.randint(0, 3) + ["fat"] * (4 * (random.rand() < 0.3))
        taken: list[tuple[float, float, float]] = []
        for kind in kinds:
            reach = {"gland": 26 + 12 * random.rand(), "crowd": 24 + 16 * random.rand(), "vessel": 22 + 14 * random.rand()}.get(
                kind, 26 + 20 * random.rand()
            )
            row, column = _place(random, self.size, reach, taken)
            taken.append((row, column, reach))
            if kind == "gland":
                glandular += _gland(random, haematoxylin, eosin, row, column, reach)
            elif kind == "crowd":
                other += _crowd(random, row, column, reach)
            elif kind == "vessel":
                other += _vessel(random, haematoxylin, eosin, row, column, reach)
            else:
                _fat(random, haematoxylin, eosin, row, column, reach)
        for _ in range(int(height * width / (1200 + 1200 * random.rand()))):
            row, column = random.rand() * height, random.rand() * width
            # No stray nuclei inside glands and vessels: their kind has to be told from what they look like.
            if all(np.hypot(row - r, column - c) > reach + 6 for r, c, reach in taken):
                other.append(_spindle(random, row, column) if random.rand() < 0.6 else _small(random, row, column))

        _stain(random, haematoxylin, eosin, glandular + other)
        # Slides differ in how strongly they were stained.
        amount = 0.85 + 0.3 * random.rand(2)
        density = haematoxylin[..., None] * (amount[0] * _HAEMATOXYLIN) + eosin[..., None] * (amount[1] * _EOSIN)
        image = np.float32(0.97) * np.exp(np.float32(-2.3) * density.astype(np.float32))
        image += (0.02 * (random.random_sample(self.size) - 0.5)).astype(np.float32)[..., None]
        tissue = Tissue(
            label=label,
            nuclei={
                kind: np.array([(n.x, n.y) for n in some if 0 <= n.x < width and 0 <= n.y < height]).reshape(-1, 2)
                for kind, some in zip(KINDS, (glandular, other), strict=True)
            },
        )
        return to_bytes(image), tissue


def _stroma(random: np.random.RandomState, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Wavy fibres in one direction, thick and thin tissue: amounts of the two stains, (H, W) each."""
    height, width = size
    angle = np.pi * random.rand()
    wave = 24 * (noise(random, size, 90) - 0.5) + 6 * (noise(random, size, 25) - 0.5)
    row, column = np.ogrid[:height, :width]
    # Fibres are noise that changes slowly along them and quickly across, read at turned, bent places.
    table = noise(random, (512, 512), (10, 90), 3)  # twice as fine as the image, and folded, so that it has no seam
    across = np.abs((2 * (row * np.cos(angle) + column * np.sin(angle) + wave)).astype(np.intp) % 1022 - 511)
    along = np.abs((2 * (column * np.cos(angle) - row * np.sin(angle) + wave / 2)).astype(np.intp) % 1022 - 511)
    fibres = table[across, along]
    thick = noise(random, size, 120, 3)
    eosin = 0.06 + 0.22 * fibres + 0.18 * thick + 0.04 * noise(random, size, 3)
    haematoxylin = 0.02 + 0.10 * thick * fibres + 0.03 * noise(random, size, 6)
    gaps = inside(0.27 + 0.3 * (0.4 - thick) - fibres, 0.12)  # cracks between fibres
    return (haematoxylin * (1 - 0.8 * gaps)).astype(np.float32), (eosin * (1 - 0.7 * gaps)).astype(np.float32)


def _place(random, size, reach, taken) -> tuple[float, float]:
    """A point that is apart from the others, if one is found."""
    for _ in range(50):
        row, column = (reach + random.rand() * max(1.0, side - 2 * reach) for side in size)
        if all(np.hypot(row - r, column - c) > reach + other + 4 for r, c, other in taken):
            break
    return row, column


def _ring(row, column, reach, random, size) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray, float]:
    """Around a point: distance from the centre of a slightly oval shape in units of its reach, and the direction."""
    part = window(row, column, 1.4 * reach, size)
    down, across = np.mgrid[part].astype(np.float32)
    oval, turn = 0.75 + 0.25 * random.rand(), np.pi * random.rand()
    u = (down - row) * np.cos(turn) + (across - column) * np.sin(turn)
    v = ((across - column) * np.cos(turn) - (down - row) * np.sin(turn)) / oval
    return part, np.hypot(u, v) / reach, oval, turn


def _around(count, row, column, radius, oval, turn, random) -> list[tuple[float, float, float]]:
    """Places along an oval, with the direction outwards: (row, column, angle from the row axis)."""
    places = []
    for angle in 2 * np.pi * (np.arange(count) + 0.3 * random.rand(count)) / count:
        u, v = radius * np.cos(angle), oval * radius * np.sin(angle)
        places.append(
            (row + u * np.cos(turn) - v * np.sin(turn), column + u * np.sin(turn) + v * np.cos(turn), np.arctan2(v, u) + turn)
        )
    return places


def _gland(random, haematoxylin, eosin, row, column, reach) -> list[_Nucleus]:
    """A lumen, cells around it, and their nuclei: large, pale, rimmed, long side outwards."""
    part, distance, oval, turn = _ring(row, column, reach, random, haematoxylin.shape)
    cells = inside(1.0 - distance, 0.12)
    lumen = inside(0.3 - distance, 0.1)
    haematoxylin[part] += cells * (0.16 - haematoxylin[part])
    eosin[part] += cells * (0.24 + 0.06 * random.random_sample(cells.shape) - eosin[part])
    for stain, left in ((haematoxylin, 0.01), (eosin, 0.03)):
        stain[part] += lumen * (left - stain[part])
    count = int(2 * np.pi * 0.72 * reach / 9.5)
    return [
        _Nucleus(
            x=c,
            y=r,
            long=7.2 + 1.6 * random.rand(),
            short=4.4 + random.rand(),
            angle=angle + 0.3 * (random.rand() - 0.5),
            body=0.32 + 0.08 * random.rand(),
            rim=0.38,
            spot=0.45,
        )
        for r, c, angle in _around(count, row, column, 0.72 * reach, oval, turn, random)
    ]


def _crowd(random, row, column, reach) -> list[_Nucleus]:
    """Small dark round nuclei, close together."""
    nuclei: list[_Nucleus] = []
    for _ in range(int(reach**2 / 22)):
        radius, angle = reach * np.sqrt(random.rand()), 2 * np.pi * random.rand()
        new = _small(random, row + radius * np.sin(angle), column + radius * np.cos(angle))
        if all((new.x - n.x) ** 2 + (new.y - n.y) ** 2 > 49 for n in nuclei):
            nuclei.append(new)
    return nuclei


def _vessel(random, haematoxylin, eosin, row, column, reach) -> list[_Nucleus]:
    """A wall of a gland's colour around a lumen, but with small dark nuclei in it; red cells inside some."""
    part, distance, oval, turn = _ring(row, column, reach, random, haematoxylin.shape)
    wall, lumen = inside(1.0 - distance, 0.12), inside(0.42 - distance, 0.1)
    haematoxylin[part] += wall * (0.16 - haematoxylin[part])
    eosin[part] += wall * (0.24 + 0.06 * random.random_sample(wall.shape) - eosin[part])
    red = inside(noise(random, distance.shape, 6) - 0.5, 0.1) * (random.rand() < 0.4)
    for stain, left in ((haematoxylin, 0.01), (eosin, 0.03 + 0.5 * red)):
        stain[part] += lumen * (left - stain[part])
    nuclei = []
    for r, c, angle in _around(int(2 * np.pi * 0.74 * reach / 8), row, column, 0.74 * reach, oval, turn, random):
        size = 3.4 + 0.8 * random.rand()
        shift = 6 * (random.rand() - 0.5)
        nuclei.append(
            _Nucleus(c + shift * np.sin(angle), r + shift * np.cos(angle), 1.3 * size, size, angle + np.pi / 2, 0.9, 0.0, 0.0)
        )
    return nuclei


def _fat(random, haematoxylin, eosin, row, column, reach) -> None:
    """An empty cell with a thin wall."""
    part, distance, _, _ = _ring(row, column, reach, random, haematoxylin.shape)
    wall, empty = inside(1.0 - distance, 0.06), inside(0.93 - distance, 0.06)
    haematoxylin[part] += wall * (0.10 - haematoxylin[part])
    eosin[part] += wall * (0.30 - eosin[part])
    for stain, left in ((haematoxylin, 0.01), (eosin, 0.03)):
        stain[part] += empty * (left - stain[part])


def _spindle(random, row, column) -> _Nucleus:
    return _Nucleus(column, row, 6 + 3 * random.rand(), 1.8 + 0.6 * random.rand(), np.pi * random.rand(), 0.7, 0.0, 0.0)


def _small(random, row, column) -> _Nucleus:
    radius = 3.2 + 0.6 * random.rand()
    return _Nucleus(column, row, radius, radius * (0.85 + 0.15 * random.rand()), np.pi * random.rand(), 1.0, 0.0, 0.0)


def _stain(random, haematoxylin, eosin, nuclei: list[_Nucleus]) -> None:
    """Draw all nuclei into the amounts of stain, in place; the darker of two that overlap is seen."""
    if not nuclei:
        return
    half = _STAMP // 2
    fields = np.array([(n.y, n.x, n.long, n.short, n.angle, n.body, n.rim, n.spot) for n in nuclei], np.float32)
    y, x, long, short, angle, body, rim, spot = (column[:, None, None] for column in fields.T)  # (M, 1, 1) each
    corner = np.floor(fields[:, :2]).astype(np.intp) - half  # (M, 2)
    down = np.arange(_STAMP, dtype=np.float32)[:, None] + corner[:, 0, None, None] - y
    across = np.arange(_STAMP, dtype=np.float32)[None] + corner[:, 1, None, None] - x
    u, v = down * np.cos(angle) + across * np.sin(angle), across * np.cos(angle) - down * np.sin(angle)
    distance = np.hypot(u / long, v / short)  # 1 at the border
    cover = inside((1 - distance) * short, 1.2)  # (M, 31, 31)
    edge = np.clip(1 - np.abs(distance - 0.88) / 0.2, 0, 1)
    dot = inside(1.6 - np.hypot(u - 0.25 * long, v), 1.0)
    grain = 0.85 + 0.3 * random.random_sample(cover.shape).astype(np.float32)
    stamps = cover * (body * grain + rim * edge + spot * dot)
    height, width = haematoxylin.shape
    for (top, left), stamp, covered in zip(corner, stamps, cover, strict=True):
        rows, columns = slice(max(0, top), min(height, top + _STAMP)), slice(max(0, left), min(width, left + _STAMP))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        own = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
        np.maximum(haematoxylin[rows, columns], stamp[own], out=haematoxylin[rows, columns])
        eosin[rows, columns] *= 1 - 0.5 * covered[own]
