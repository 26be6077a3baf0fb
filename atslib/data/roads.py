"""Drawn road scenes with traffic signs, for when the photographs are not there.

They have the *task* of the paper's speed limits (none, 50, 70 or 80?) and its point: a sign, shrunk to 0.3 of its size,
shows that it is there but hardly what it says. Signs are some twenty pixels wide in an image of a megapixel, smaller than in
photographs, whose digits are less clear than drawn ones. Errors measured on them say how a method does on this task, not how
it does on roads.
"""

from __future__ import annotations

import itertools
import operator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from atslib.data.drawing import balanced_labels, blend, count_of_images, inside, noise, stream, to_bytes, window
from atslib.data.speed_limits import Sign
from atslib.loading import LabelledImages
from atslib.patches import pair

# Round signs that set none of the limits: three with a red ring or a red disc, so that red does not give a limit away.
OTHERS = ("no_vehicles", "no_overtaking", "no_entry", "ahead_only", "end_of_limits")
_SPLITS = ("train", "test")
_FACE = 256  # pixels of a sign's face before it is put into the scene
_STYLES = 12  # ways of painting the same sign
_SAMPLES = 24  # points looked up for each pixel of a sign


@dataclass(frozen=True)
class _Placed:
    """One sign: centre, radius and foot of its pole in pixels, and how it is turned, blurred and lit."""

    name: str
    row: float
    column: float
    radius: float
    foot: float
    squeeze: float
    tilt: float
    lean: float
    blur: float
    light: float
    dirt: float
    style: int


class GeneratedRoads(LabelledImages):
    """Drawn road scenes: sky, hills, trees, a road, houses, cars and poles; round signs on poles beside the road.

    An image of class 50, 70 or 80 shows one or two signs of that limit and now and then another round sign; an image of class
    ``none`` shows one to three other round signs, also red ones.

    Args:
        split: ``"train"`` or ``"test"``.
        n_images: how many images there are; 800 and 400 unless given, a quarter of each class.
        size: height and width, one number for a square; the paper's 960 × 1280 unless given.
        sign_width: narrowest and widest sign, in pixels.
        seed: another seed, other images.

    Items are ``(image, label)``: uint8 of shape ``(3, H, W)`` and an int.

    >>> image, label = GeneratedRoads(n_images=4, size=(240, 320))[0]
    >>> tuple(image.shape), image.dtype, 0 <= label < 4
    ((3, 240, 320), torch.uint8, True)
    """

    classes = ("none", "50", "70", "80")

    def __init__(
        self,
        split: str = "train",
        n_images: int | None = None,
        size: int | tuple[int, int] = (960, 1280),
        *,
        sign_width: tuple[int, int] = (16, 28),
        seed: int = 0,
    ):
        if split not in _SPLITS:
            raise ValueError(f"split={split!r}: expected 'train' or 'test'")
        if not 8 <= sign_width[0] <= sign_width[1]:
            raise ValueError(f"sign_width={sign_width}: expected the narrowest, at least 8 pixels, and the widest")
        size = pair(size)
        if min(size) < 4 * sign_width[1]:
            raise ValueError(
                f"size={size}: too small for signs up to {sign_width[1]} pixels wide; expected at least "
                f"{4 * sign_width[1]} × {4 * sign_width[1]}, or give a smaller sign_width"
            )
        self._split, self.seed, self.size, self.sign_width = split, seed, size, tuple(sign_width)
        n_images = count_of_images(n_images, {"train": 800, "test": 400}[split])
        self.labels = torch.from_numpy(balanced_labels(n_images, 4, seed, _SPLITS.index(split), 2))

    def __getitem__(self, number: int) -> tuple[UInt8[Tensor, "3 H W"], int]:
        horizon, placed = self._compose(number)
        number = range(len(self))[number]
        random = stream(self.seed, _SPLITS.index(self._split), 4, number)
        image = _landscape(random, self.size, horizon)
        for sign in sorted(placed, key=lambda sign: sign.radius):  # the near ones last
            _put(random, image, sign)
        # Light of the hour and the grain of the camera.
        image *= (0.75 + 0.4 * random.rand()) * (1 + 0.08 * (random.rand(3).astype(np.float32) - 0.5))
        image += (0.05 * (random.random_sample(self.size) - 0.5)).astype(np.float32)[..., None]
        return torch.from_numpy(to_bytes(image)), int(self.labels[number])

    def signs(self, number: int) -> tuple[Sign, ...]:
        """All signs of an image; for pictures, never for training."""
        signs = []
        for sign in self._compose(number)[1]:
            across = sign.radius * sign.squeeze
            box = (sign.column - across, sign.row - sign.radius, sign.column + across, sign.row + sign.radius)
            signs.append(Sign(sign.name, box, limit=sign.name if sign.name in self.classes else None))
        return tuple(signs)

    def boxes(self, number: int) -> list[tuple[float, float, float, float]]:
        """Boxes (left, top, right, bottom) of the signs that give the image its label; none where it is ``none``."""
        return [sign.box for sign in self.signs(number) if sign.limit is not None]

    def _compose(self, number: int) -> tuple[float, list[_Placed]]:
        """Where the horizon is and what signs stand where."""
        number = range(len(self))[operator.index(number)]  # IndexError beyond the end, negative numbers from the end
        random = stream(self.seed, _SPLITS.index(self._split), 3, number)
        height, width = self.size
        horizon = (0.42 + 0.12 * random.rand()) * height
        label = int(self.labels[number])
        if label:
            names = [self.classes[label]] * (2 if random.rand() < 0.3 else 1)
            names += [OTHERS[random.randint(len(OTHERS))]] * (random.rand() < 0.4)
        else:
            names = [OTHERS[random.randint(len(OTHERS))] for _ in range(random.randint(1, 4))]
        placed: list[_Placed] = []
        for name in names:
            narrow, wide = self.sign_width
            radius = (narrow + (wide - narrow) * random.rand() ** 1.5) / 2
            for _ in range(100):
                # Beside the road, mostly on the right; the nearer (larger), the further out and the higher.
                right = random.rand() < 0.7
                out = (0.12 + 0.30 * random.rand()) * width
                column = np.clip(width / 2 + (out if right else -out), 1.3 * radius, width - 1.3 * radius)
                row = np.clip(horizon - (0.02 + 0.22 * random.rand()) * height, 1.3 * radius, height - 4 * radius)
                if all(np.hypot(row - other.row, column - other.column) > 1.3 * (radius + other.radius) for other in placed):
                    break
            placed.append(
                _Placed(
                    name=name,
                    row=float(row),
                    column=float(column),
                    radius=float(radius),
                    foot=float(max(row + 4 * radius, horizon + 1.5 * radius)),
                    squeeze=0.8 + 0.2 * random.rand(),
                    tilt=0.25 * (random.rand() - 0.5),
                    lean=0.3 * (random.rand() - 0.5),
                    blur=0.4 + 0.7 * random.rand(),
                    light=0.65 + 0.4 * random.rand(),
                    dirt=0.7 * random.rand(),
                    style=int(random.randint(_STYLES)),
                )
            )
        return horizon, placed


# ---------------------------------------------------------------------------------------------------------------------
# The scene


def _landscape(random: np.random.RandomState, size: tuple[int, int], horizon: float) -> Float[np.ndarray, "H W 3"]:
    height, width = size
    row = np.arange(height, dtype=np.float32)[:, None]
    column = np.arange(width, dtype=np.float32)[None]
    unit = height / 960  # sizes below are in pixels of an image that is 960 high

    grey = random.rand()  # how overcast
    high = np.array([0.35, 0.55, 0.85], np.float32) * (1 - grey) + 0.70 * grey
    low = np.array([0.80, 0.88, 0.95], np.float32) * (1 - grey) + 0.82 * grey
    depth = np.clip(row / horizon, 0, 1)[..., None]
    image = np.broadcast_to(high + depth * (low - high), (height, width, 3)).astype(np.float32)
    sky = slice(0, int(horizon) + 1)
    blend(image[sky], (0.95, 0.95, 0.96), np.clip(3 * noise(random, (sky.stop, width), (90 * unit, 240 * unit), 4) - 1.4, 0, 0.8))

    hills = horizon - 60 * unit * noise(random, (1, width), (1, 300 * unit), 2)
    blend(image, (0.45, 0.55, 0.58), inside(row - hills))
    for _ in range(random.randint(0, 3)):
        _house(random, image, horizon, unit)
    season = np.array([[0.13, 0.24, 0.08], [0.30, 0.26, 0.10], [0.20, 0.30, 0.12]], np.float32)[random.randint(3)]
    trees = horizon + 10 * unit - 190 * unit * np.clip(1.6 * noise(random, (1, width), (1, 160 * unit), 4) - 0.5, 0, 1)
    band = slice(max(0, int(trees.min()) - 2), min(height, int(horizon + 12 * unit)))
    leaves = noise(random, (band.stop - band.start, width), 26 * unit, 4)[..., None]
    ragged = 14 * unit * (noise(random, (band.stop - band.start, width), 9 * unit, 2) - 0.5)
    blend(image[band], season * (0.35 + 1.5 * leaves), inside(row[band] - trees + ragged, 2.0))

    ground = slice(int(horizon), height)
    down = (row[ground] - horizon) / (height - horizon)  # 0 at the horizon, 1 at the bottom
    meadow = np.array([0.28, 0.38, 0.14], np.float32) * (0.6 + 0.4 * random.rand()) + 0.06 * random.rand(3).astype(np.float32)
    texture = noise(random, down.shape[:1] + (width,), (6 * unit, 22 * unit), 3)[..., None]
    blend(image[ground], meadow * (0.55 + 0.9 * texture), inside(row[ground] - horizon))
    vanishing, bottom = width * (0.45 + 0.1 * random.rand()), width * (0.40 + 0.2 * random.rand())
    centre, half = vanishing + (bottom - vanishing) * down, width * (0.34 + 0.1 * random.rand()) * down + 2 * unit
    off = np.abs(column - centre)
    asphalt = 0.30 + 0.15 * random.rand() + 0.10 * noise(random, off.shape, (3 * unit, 9 * unit), 3)
    blend(image[ground], asphalt[..., None], inside(half - off, 2.0))
    paint = inside(0.012 * width * down - np.abs(off - 0.9 * half), 1.5)
    dashes = (1 / np.maximum(down, 0.02) + random.rand()) % 1.6 < 0.8
    paint = np.maximum(paint, inside(0.010 * width * down - off, 1.5) * dashes)
    blend(image[ground], (0.82, 0.82, 0.80), 0.9 * paint)

    for _ in range(random.randint(1, 5)):  # lamp posts and the like, without a sign
        at, top = random.rand() * width, horizon - (60 + 220 * random.rand()) * unit
        part = window((top + horizon) / 2, at, (horizon + 30 * unit - top) / 2, size)
        rows = np.ones((part[0].stop - part[0].start, 1), np.float32)
        cover = inside((1 + 2 * random.rand()) * unit - np.abs(column[:, part[1]] - at)) * rows
        blend(image[part], (0.35 + 0.2 * random.rand(),) * 3, cover)
    for _ in range(random.randint(0, 3)):
        _car(random, image, horizon, centre, half)
    return image


def _rectangle(image, top, left, bottom, right, colour) -> None:
    height, width = image.shape[:2]
    rows = slice(max(0, int(top)), max(0, min(height, int(bottom))))
    image[rows, max(0, int(left)) : max(0, min(width, int(right)))] = colour


def _house(random, image, horizon, unit) -> None:
    """Walls, rows of windows, a roof."""
    across, up = (120 + 160 * random.rand()) * unit, (70 + 110 * random.rand()) * unit
    left = random.rand() * image.shape[1] - across / 2
    wall = 0.45 + 0.4 * random.rand() + 0.12 * (random.rand(3) - 0.5)
    _rectangle(image, horizon - up, left, horizon + 8 * unit, left + across, wall)
    _rectangle(image, horizon - up - 14 * unit, left - 6 * unit, horizon - up, left + across + 6 * unit, (0.42, 0.22, 0.17))
    pane = 16 * unit
    for top in np.arange(horizon - up + 10 * unit, horizon - pane, 2.2 * pane):
        for at in np.arange(left + 10 * unit, left + across - pane, 1.9 * pane):
            _rectangle(image, top, at, top + 1.2 * pane, at + 0.8 * pane, (0.22, 0.26, 0.32))


def _car(random, image, horizon, centre, half) -> None:
    """A car from behind, with its red lights: small, round-ish and red like the signs."""
    down = 0.05 + 0.35 * random.rand() ** 2
    at = min(len(centre) - 1, int(down * len(centre)))
    middle, lane = float(centre[at, 0]), float(half[at, 0])
    across = 0.55 * lane
    left, bottom = middle + (0.45 if random.rand() < 0.6 else -0.45) * lane - across / 2, horizon + at
    paint = random.rand(3) * 0.7 + 0.05

    def part(top: float, left_edge: float, low: float, right: float, colour) -> None:
        """A rectangle in units of the car's width, up from the road and to the right from its side."""
        _rectangle(image, bottom - top * across, left + left_edge * across, bottom - low * across, left + right * across, colour)

    part(0.08, 0.00, -0.04, 1.00, (0.08, 0.08, 0.08))  # tyres and shadow
    part(0.48, 0.00, 0.06, 1.00, paint)
    part(0.80, 0.12, 0.46, 0.88, paint * 0.9)
    part(0.75, 0.18, 0.50, 0.82, (0.15, 0.18, 0.22))  # rear window
    part(0.42, 0.03, 0.28, 0.17, (0.7, 0.05, 0.05))
    part(0.42, 0.83, 0.28, 0.97, (0.7, 0.05, 0.05))
    part(0.26, 0.36, 0.16, 0.64, (0.9, 0.9, 0.85))  # number plate


def _put(random, image, sign: _Placed) -> None:
    """A pole and a sign on it."""
    size = image.shape[:2]
    part = window((sign.row + sign.foot) / 2, sign.column, (sign.foot - sign.row) / 2, size)
    column = np.arange(part[1].start, part[1].stop, dtype=np.float32)[None]
    rows = np.ones((part[0].stop - part[0].start, 1), np.float32)
    blend(image[part], (0.45 * sign.light,) * 3, inside(0.09 * sign.radius + 0.6 - np.abs(column - sign.column)) * rows)

    part = window(sign.row, sign.column, 1.25 * sign.radius + 3, size)
    down, across = np.mgrid[part].astype(np.float32)
    # Each pixel looks at the face in several points around it: antialiasing and blur at once.
    spread = (sign.blur * random.randn(_SAMPLES, 2)).astype(np.float32)
    down = (down - sign.row)[..., None] + spread[:, 0]  # (h, w, samples)
    across = (across - sign.column)[..., None] + spread[:, 1]
    far = 1 + sign.lean * across / (4 * sign.radius)  # one side is further away
    u = (across * np.cos(sign.tilt) + down * np.sin(sign.tilt)) / (sign.radius * sign.squeeze * far)
    v = (down * np.cos(sign.tilt) - across * np.sin(sign.tilt)) / (sign.radius * far)
    cells = [np.clip(((at + 1) * (_FACE / 2)).astype(np.intp), 0, _FACE - 1) for at in (v, u)]
    seen = face(sign.name, sign.style)[cells[0], cells[1]] * (u**2 + v**2 <= 1)[..., None]  # (h, w, samples, 4)
    seen = seen.mean(2)
    # Shadows of leaves, dirt and glare, in spots about as large as a digit.
    spots = 1 + sign.dirt * (2 * noise(random, seen.shape[:2], 0.4 * sign.radius, 2) - 1)
    image[part] = image[part] * (1 - seen[..., 3:]) + sign.light * spots[..., None] * seen[..., :3]


# ---------------------------------------------------------------------------------------------------------------------
# Faces of signs

_RED, _BLUE, _BLACK, _WHITE = (0.75, 0.07, 0.09), (0.05, 0.25, 0.62), (0.06, 0.06, 0.06), (0.93, 0.93, 0.92)


def _arc(x, y, across, up, start, stop, steps=24) -> list[tuple[float, float]]:
    """Points on an ellipse, from one angle (degrees, 0 to the right, clockwise) to another."""
    return [(x + across * np.cos(angle), y + up * np.sin(angle)) for angle in np.radians(np.linspace(start, stop, steps))]


# Strokes of the digits, in a box 0.6 wide and 1 high.
_DIGITS = {
    "0": [_arc(0.30, 0.50, 0.21, 0.42, 0, 360, 40)],
    "5": [[(0.50, 0.08), (0.14, 0.08), (0.11, 0.47)], _arc(0.29, 0.66, 0.22, 0.26, -145, 150)],
    "7": [[(0.08, 0.08), (0.52, 0.08), (0.38, 0.36), (0.25, 0.66), (0.20, 0.92)]],
    "8": [_arc(0.30, 0.28, 0.18, 0.20, 0, 360), _arc(0.30, 0.70, 0.21, 0.22, 0, 360)],
}


def _stroke(points, width, x, y) -> Float[np.ndarray, "F F"]:
    """Cover of a line through the points."""
    nearest = np.full(x.shape, np.inf)
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        length = (x1 - x0) ** 2 + (y1 - y0) ** 2
        along = np.clip(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / max(length, 1e-12), 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0)))
    return inside(width / 2 - nearest, 2 / _FACE)


@lru_cache(maxsize=128)
def face(name: str, style: int = 0) -> Float[np.ndarray, "F F 4"]:
    """The front of a sign, red, green, blue and cover, over the square from (−1, −1) to (1, 1).

    Styles differ in size, place and weight of what is on the sign, and in the width of its ring.
    """
    size, weight, ring, right, below = (stream(style).random_sample(5) - 0.5) * (style > 0)
    y, x = (np.mgrid[:_FACE, :_FACE] + 0.5) * (2 / _FACE) - 1
    distance = np.hypot(x, y)
    picture = np.zeros((_FACE, _FACE, 3), np.float32)
    picture[:] = _WHITE

    def paint(colour, cover):
        blend(picture, colour, cover)

    soft = 4 / _FACE
    if name in ("no_entry", "ahead_only"):
        paint(_RED if name == "no_entry" else _BLUE, inside(0.96 - distance, soft))
    elif name != "end_of_limits":
        paint(_RED, inside(distance - 0.74 - 0.08 * ring, soft) * inside(0.97 - distance, soft))
    if name.isdigit():
        scale, width = 0.80 * (1 + 0.3 * size), 0.155 + 0.06 * weight
        advance = 0.65 * scale
        for position, digit in enumerate(name):
            left = (position - len(name) / 2) * advance - 0.01 + 0.12 * right
            for points in _DIGITS[digit]:
                paint(_BLACK, _stroke(points, width, (x - left) / scale * 1.08, (y - 0.1 * below) / scale + 0.5))
    elif name == "no_overtaking":
        for left, colour in ((-0.52, _RED), (0.06, _BLACK)):
            paint(colour, inside(0.23 - np.abs(x - left - 0.23), soft) * inside(0.12 - np.abs(y - 0.10), soft))
            paint(colour, inside(0.15 - np.abs(x - left - 0.23), soft) * inside(0.12 - np.abs(y + 0.10), soft))
    elif name == "no_entry":
        paint(_WHITE, inside(0.68 - np.abs(x), soft) * inside(0.15 - np.abs(y), soft))
    elif name == "ahead_only":
        paint(_WHITE, inside(0.10 - np.abs(x), soft) * inside(0.55 - np.abs(y), soft))
        paint(_WHITE, _stroke([(-0.34, -0.20), (0.0, -0.56), (0.34, -0.20)], 0.2, x, y))
    elif name == "end_of_limits":
        paint(_BLACK, inside(distance - 0.90, soft) * inside(0.95 - distance, soft))
        for shift in np.linspace(-0.24, 0.24, 5):
            paint(_BLACK, _stroke([(-0.62 + shift, 0.62 + shift), (0.62 + shift, -0.62 + shift)], 0.045, x, y))
    elif name not in OTHERS:
        raise ValueError(f"sign {name!r}: expected a number of the digits {', '.join(_DIGITS)}, or one of {', '.join(OTHERS)}")
    return np.dstack([picture, (distance <= 1).astype(np.float32)])
