"""Which speed limit does a road image show? The paper's set, and one that can be had more easily (§4.4).

Both are read in the layouts of their authors: the Swedish Traffic Signs (Larsson & Felsberg, 2011), which the paper uses,
and the German Traffic Sign Detection Benchmark (Houben et al., 2013). Results on the second are not the paper's.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from atslib.data.files import DataError, ImageFiles, find_set, image_size, read_image
from atslib.patches import pair

SWEDISH_GET = "python -m atslib.data get swedish_traffic_signs"
SWEDISH_FOLDER = "swedish_traffic_signs"
SWEDISH_MD5 = {"Set1": "9106a905a86209c95dc9b51d12f520d6", "Set2": "09debbc67f6cd89c1e2a2688ad1d03ca"}
SWEDISH_SIZE = (960, 1280)
GTSDB_GET = "python -m atslib.data get gtsdb"
GTSDB_FOLDER = "gtsdb/FullIJCNN2013"
GTSDB_IMAGES, GTSDB_BOXES, GTSDB_SIZE = 900, 1213, (800, 1360)
GTSDB_TRAIN = 600  # images 0 … 599 train, the others test

# Class ids of the German set. 6, the end of 80, is no limit.
GERMAN_LIMITS = {0: "20", 1: "30", 2: "50", 3: "60", 4: "70", 5: "80", 7: "100", 8: "120"}
END_OF_80 = 6

_VISIBILITY = ("VISIBLE", "BLURRED", "SIDE_ROAD", "OCCLUDED")  # best first
_ENDINGS = (".ppm", ".jpg", ".jpeg", ".png")
_PAPER = ("50", "70", "80")
_ANY = "limit"  # the class of an image that shows any limit


@dataclass(frozen=True)
class Sign:
    """One sign in an image; for pictures and for finding the label, never for training.

    Attributes:
        name: what it shows, as the set says: ``"80_SIGN"``, or a class id of the German set.
        box: left, top, right, bottom in pixels.
        visibility: ``"VISIBLE"``, ``"BLURRED"``, ``"SIDE_ROAD"`` or ``"OCCLUDED"``.
        limit: the speed limit it sets, None for any other sign.
    """

    name: str
    box: tuple[float, float, float, float]
    visibility: str = "VISIBLE"
    limit: str | None = None

    @property
    def area(self) -> float:
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top)


class SpeedLimits(ImageFiles):
    """What the two sets have in common: classes ``none`` and one a limit, and the signs of each image.

    Args:
        files: image files.
        signs: of each image.
        labels: of each image, positions in ``classes``.
        classes: their names.
        cache: see :class:`atslib.data.files.ImageFiles`.
    """

    def __init__(
        self,
        files: Sequence[Path],
        signs: Sequence[Sequence[Sign]],
        labels: Sequence[int],
        classes: tuple[str, ...],
        *,
        cache: str | os.PathLike | None = None,
    ):
        super().__init__(files, labels, classes=classes, cache=cache)
        self._signs = [tuple(some) for some in signs]

    def signs(self, number: int) -> tuple[Sign, ...]:
        """All signs of an image, of any kind; for pictures, never for training."""
        return self._signs[number]

    def boxes(self, number: int) -> list[tuple[float, float, float, float]]:
        """Boxes (left, top, right, bottom) of the signs that give the image its label; none where it is ``none``."""
        name = self.classes[int(self.labels[number])]
        return [sign.box for sign in self.signs(number) if sign.limit is not None and name in (sign.limit, _ANY)]


class SwedishTrafficSigns(SpeedLimits):
    """The paper's speed limits: none, 50, 70 or 80 on Swedish roads, in images of 960 × 1280 pixels.

    The rule is the released code's: an image without any sign is ``none``; otherwise the most visible of its 50, 70 and 80
    signs, the largest among equals, gives the class, but only if it is ``VISIBLE``; every other image is left out
    (:func:`paper_label`).

    Args:
        root: the data root, or the folder with ``Set1`` and ``Set2``.
        split: ``"train"`` or ``"test"``.
        train_on: 1 or 2; the other set is the test set. The paper's numbers of images are 747 and 684.
        cache: see :class:`atslib.data.files.ImageFiles`; 3.7 MB an image.

    Raises:
        DataError: the set is missing, an annotation cannot be read, or one names an image that is not there.
    """

    get = SWEDISH_GET

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        split: str = "train",
        *,
        train_on: int = 1,
        cache: str | os.PathLike | None = None,
    ):
        if split not in ("train", "test"):
            raise ValueError(f"split={split!r}: expected 'train' or 'test'")
        if train_on not in (1, 2):
            raise ValueError(f"train_on={train_on!r}: expected 1 or 2, Set1 or Set2")
        folder = find_set(root, SWEDISH_FOLDER, "Set1/annotations.txt", SWEDISH_GET)
        part = f"Set{train_on if split == 'train' else 3 - train_on}"
        annotated = read_swedish(folder / part / "annotations.txt")
        classes = ("none", *_PAPER)
        files, signs, labels = [], [], []
        for name, some in annotated.items():
            label = paper_label(some)
            if label is None:
                continue
            files.append(_swedish_image(folder / part, name))
            signs.append(some)
            labels.append(classes.index(label))
        super().__init__(files, signs, labels, classes, cache=cache)


class GTSDB(SpeedLimits):
    """Speed limits on German roads, in images of 800 × 1360 pixels; split as its authors do, 600 and 300 images.

    ``none`` is an image without a speed-limit sign; it may show other signs, also the end of a limit.

    Args:
        root: the data root, or the folder ``FullIJCNN2013`` itself.
        split: ``"train"`` or ``"test"``.
        limits: ``"paper"`` for none, 50, 70 and 80, leaving out images with another limit; ``"all"`` for all eight; ``"any"`` for
            the two classes none and limit.
        cache: see :class:`atslib.data.files.ImageFiles`; 3.3 MB an image.

    Raises:
        DataError: the set is missing or incomplete, or an annotation cannot be read.
    """

    get = GTSDB_GET

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        split: str = "train",
        *,
        limits: str = "paper",
        cache: str | os.PathLike | None = None,
    ):
        if split not in ("train", "test"):
            raise ValueError(f"split={split!r}: expected 'train' or 'test'")
        if limits not in ("paper", "all", "any"):
            raise ValueError(f"limits={limits!r}: expected 'paper' (none, 50, 70, 80), 'all' or 'any' (none, limit)")
        folder = find_set(root, GTSDB_FOLDER, "gt.txt", GTSDB_GET)
        images = _german_images(folder)
        annotated = read_gtsdb(folder / "gt.txt")
        classes = ("none", *{"paper": _PAPER, "all": GERMAN_LIMITS.values(), "any": (_ANY,)}[limits])
        files, signs, labels = [], [], []
        for number in range(GTSDB_TRAIN) if split == "train" else range(GTSDB_TRAIN, GTSDB_IMAGES):
            some = annotated.get(number, [])
            shown = sorted({sign.limit for sign in some if sign.limit is not None})
            if len(shown) > 1:
                raise DataError(f"{folder / 'gt.txt'}: image {number:05d} shows the limits {shown}; expected one at most")
            label = "none" if not shown else _ANY if limits == "any" else shown[0]
            if label not in classes:
                continue
            files.append(images[number])
            signs.append(some)
            labels.append(classes.index(label))
        super().__init__(files, signs, labels, classes, cache=cache)


class SignWindows(SpeedLimits):
    """Windows of photographs, at full resolution: the same question with less road to search.

    The window of an image with a label shows the largest sign that gives it, at a random place; that of an image of class
    ``none`` lies anywhere. What is shown is decided once, from ``seed`` and the image's number. The boxes are used to cut the
    windows, and no further: what a model is told is the label of the window as a whole. For training where the whole photographs
    take too long.

    Args:
        dataset: the photographs, or a part of them (``photographs.split(0.2)[0]``).
        size: height and width of the windows in pixels, one number for a square.
        margin: pixels that the sign keeps from the window's border where the photograph allows, so that a small shift of the
            window does not push it out.
        negatives: add a second window of each photograph with a label, of class ``none``: one that touches none of its signs
            that set a limit (a photograph in which there is no such window gives one only). Then the place where a photograph
            was taken says nothing about a window's label.
        seed: another seed, other windows.

    Attributes:
        photographs: for each window the number of its photograph in ``dataset``.
        corners: for each window row and column of its first pixel.

    Raises:
        ValueError: a window larger than an image, or one in which a sign finds no place.

    Items are ``(image, label)``: uint8 of shape ``(3, *size)`` and an int.
    """

    def __init__(
        self, dataset: SpeedLimits, size: int | tuple[int, int], *, margin: int = 50, negatives: bool = False, seed: int = 0
    ):
        self.size = pair(size)
        self.photographs: list[int] = []
        self.corners: list[tuple[int, int]] = []
        labels = []
        sizes = [image_size(path, getattr(dataset, "get", None)) for path in dataset.files]
        for number, whole in enumerate(sizes):
            if any(window > side for window, side in zip(self.size, whole, strict=True)):
                raise ValueError(f"window of {self.size} pixels from image {number} of {whole}: expected one no larger")
            place = np.random.default_rng([seed, number]).random(2)
            self.photographs.append(number)
            self.corners.append(_window_with(dataset.boxes(number), place, self.size, whole, margin, number))
            labels.append(int(dataset.labels[number]))
        for number, whole in enumerate(sizes if negatives else []):
            if dataset.labels[number]:
                limits = [sign.box for sign in dataset.signs(number) if sign.limit is not None]
                places = np.random.default_rng([seed, number, 1]).random((200, 2))
                if (corner := _window_without(limits, places, self.size, whole)) is not None:
                    self.photographs.append(number)
                    self.corners.append(corner)
                    labels.append(0)
        given, signs = dataset.files, [dataset.signs(number) for number in self.photographs]
        super().__init__([given[number] for number in self.photographs], signs, labels, dataset.classes)
        self.dataset = dataset
        self._settings = f"{self.size[0]}x{self.size[1]}-{margin}-{seed}" + ("-negatives" if negatives else "")

    def __getitem__(self, number: int) -> tuple[UInt8[Tensor, "3 h w"], int]:
        image, _ = self.dataset[self.photographs[number]]
        (top, left), (height, width) = self.corners[number], self.size
        return image[:, top : top + height, left : left + width].clone(), int(self.labels[number])

    def signs(self, number: int) -> tuple[Sign, ...]:
        """Those of the photograph's signs whose middle is in the window, in pixels of the window."""
        top, left = self.corners[number]
        found = []
        for sign in self._signs[number]:
            x1, y1, x2, y2 = (edge - origin for edge, origin in zip(sign.box, (left, top, left, top), strict=True))
            if 0 <= (x1 + x2) / 2 < self.size[1] and 0 <= (y1 + y2) / 2 < self.size[0]:
                found.append(replace(sign, box=(x1, y1, x2, y2)))
        return tuple(found)

    def digest(self) -> str:
        return f"{self.dataset.digest()}-windows{self._settings}"


def _window_with(boxes, place, size, image_size, margin: int, number: int) -> tuple[int, int]:
    """First pixel of a window that shows the largest of the boxes; without boxes of one anywhere. ``place``: two of [0, 1)."""
    box = max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]), default=None)
    first = []
    for axis, (window, side, share) in enumerate(zip(size, image_size, place, strict=True)):
        least, most = 0, side - window
        if box is not None:
            low, high = box[1 - axis], box[3 - axis]
            if high - low > window:
                raise ValueError(f"window of {size} pixels: the sign of image {number}, {box}, finds no place in it")
            room = min(margin, (window - (high - low)) / 2)
            least = min(most, max(0, math.ceil(high + room - window)))
            most = max(least, min(most, math.floor(low - room)))
        first.append(int(least + share * (most - least + 1)))
    return tuple(first)


def _window_without(boxes, places, size, image_size) -> tuple[int, int] | None:
    """First pixel of the first of these windows that touches none of the boxes; ``places``: pairs of [0, 1)."""
    (height, width), (rows, columns) = size, image_size
    for down, across in places:
        top, left = int(down * (rows - height + 1)), int(across * (columns - width + 1))
        if not any(x1 < left + width and x2 > left and y1 < top + height and y2 > top for x1, y1, x2, y2 in boxes):
            return top, left
    return None


def paper_label(signs: Sequence[Sign]) -> str | None:
    """The class of a Swedish image by the released code's rule, None for an image that is left out.

    The paper's text (§4.4) says "no limit sign" of the class none, which would keep images with other signs.

    >>> paper_label([])
    'none'
    >>> paper_label([Sign("80_SIGN", (0, 0, 9, 9), "VISIBLE", "80"), Sign("50_SIGN", (0, 0, 5, 5), "VISIBLE", "50")])
    '80'
    """
    if not signs:
        return "none"
    limits = [sign for sign in signs if sign.limit in _PAPER]
    if not limits:
        return None  # other signs only
    best = min(limits, key=lambda sign: (_VISIBILITY.index(sign.visibility), -sign.area))
    return best.limit if best.visibility == "VISIBLE" else None


def read_swedish(path: Path) -> dict[str, list[Sign]]:
    """Image name -> its signs, from an ``annotations.txt``.

    A line is ``NAME.jpg:VISIBILITY, x_max, y_max, x_min, y_min, TYPE, SIGN;…``. ``MISC_SIGNS`` stands for signs that were not
    annotated one by one; it has no box and counts for nothing. Some numbers carry stray characters, which are dropped.

    Raises:
        DataError: a line that does not read so, with its number.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror}); get it with `{SWEDISH_GET}`") from error
    annotated: dict[str, list[Sign]] = {}
    for count, line in enumerate(lines, start=1):
        line = line.strip()
        if not line:
            continue
        name, colon, rest = line.partition(":")
        if not colon or Path(name).suffix.lower() not in _ENDINGS or Path(name).name != name:
            raise DataError(f"{path}, line {count}: {line[:60]!r} does not begin with an image's name and a colon")
        signs = annotated.setdefault(name, [])
        for entry in filter(None, (entry.strip() for entry in rest.split(";"))):
            if entry.startswith("MISC_SIGNS"):
                continue
            signs.append(_swedish_sign(entry, f"{path}, line {count}"))
    return annotated


def _swedish_sign(entry: str, where: str) -> Sign:
    fields = [field.strip() for field in entry.split(",")]
    if len(fields) != 7:
        raise DataError(f"{where}: {entry!r} has {len(fields)} fields, expected VISIBILITY, four numbers, TYPE, SIGN")
    visibility, *numbers, _, name = fields
    if visibility not in _VISIBILITY:
        raise DataError(f"{where}: visibility {visibility!r}, expected one of {', '.join(_VISIBILITY)}")
    right, bottom, left, top = (_number(text, where) for text in numbers)
    limit = name.removesuffix("_SIGN") if name.endswith("_SIGN") and name.removesuffix("_SIGN").isdigit() else None
    box = (min(left, right), min(top, bottom), max(left, right), max(top, bottom))
    return Sign(name=name, box=box, visibility=visibility, limit=limit)


def _number(text: str, where: str) -> float:
    """A number, without the stray characters that follow some."""
    for end in range(len(text), 0, -1):
        try:
            return float(text[:end])
        except ValueError:
            continue
    raise DataError(f"{where}: {text!r} is no number")


def _swedish_image(folder: Path, name: str) -> Path:
    # The archives hold the images without a folder; some tools unpack each into one of its own.
    for candidate in (folder / name, folder / f"{folder.name}Part0" / name):
        if candidate.exists():
            return candidate
    raise DataError(f"{folder / name}: not there, but annotations.txt names it; get the set again with `{SWEDISH_GET}`")


def read_gtsdb(path: Path) -> dict[int, list[Sign]]:
    """Image number -> its signs, from ``gt.txt`` with lines ``00000.ppm;left;top;right;bottom;class``.

    Raises:
        DataError: a line that does not read so or names an image beyond the 900, with its number.
    """
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror}); get it with `{GTSDB_GET}`") from error
    annotated: dict[int, list[Sign]] = {}
    for count, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        fields = line.strip().split(";")
        try:
            name, left, top, right, bottom, kind = fields
            number, kind = int(Path(name).stem), int(kind)
            box = (float(left), float(top), float(right), float(bottom))
        except ValueError as error:
            raise DataError(f"{path}, line {count}: {line[:60]!r}, expected NAME;left;top;right;bottom;class") from error
        if not 0 <= number < GTSDB_IMAGES:
            raise DataError(f"{path}, line {count}: image {name} is not of this set, whose images are 00000 … 00899")
        annotated.setdefault(number, []).append(Sign(name=str(kind), box=box, limit=GERMAN_LIMITS.get(kind)))
    return annotated


def _german_images(folder: Path) -> list[Path]:
    """The 900 image files, of whatever ending."""
    found = {path.stem: path for ending in reversed(_ENDINGS) for path in folder.glob(f"*{ending}")}
    missing = [f"{number:05d}" for number in range(GTSDB_IMAGES) if f"{number:05d}" not in found]
    if missing:
        raise DataError(
            f"{folder / missing[0]}.ppm (or {', '.join(_ENDINGS[1:])}): not there; {len(missing)} of {GTSDB_IMAGES} images are "
            f"missing; get the set again with `{GTSDB_GET}`"
        )
    return [found[f"{number:05d}"] for number in range(GTSDB_IMAGES)]


def gtsdb_look(folder: Path) -> list[str]:
    """What is missing in the folder, without reading the images; nothing when it is whole."""
    try:
        _german_images(folder)
        boxes = sum(map(len, read_gtsdb(folder / "gt.txt").values()))
    except DataError as error:
        return [str(error)]
    return [] if boxes == GTSDB_BOXES else [f"{folder / 'gt.txt'}: {boxes} signs, expected {GTSDB_BOXES}; get it again"]


def gtsdb_problems(folder: Path) -> list[str]:
    """What is missing or wrong in the folder, after reading every file of it; nothing when it is whole."""
    return gtsdb_look(folder) or _size_problems(_german_images(folder), GTSDB_SIZE, GTSDB_GET)


def swedish_look(folder: Path) -> list[str]:
    """What is missing in the folder, without reading the images; nothing when it is whole."""
    found = []
    for part in SWEDISH_MD5:
        try:
            for name in read_swedish(folder / part / "annotations.txt"):
                _swedish_image(folder / part, name)
        except DataError as error:
            found.append(str(error))
    return found


def swedish_problems(folder: Path) -> list[str]:
    """What is missing or wrong in the folder, after reading every file of it; nothing when it is whole."""
    images = [] if (found := swedish_look(folder)) else _swedish_images(folder)
    return found or _size_problems(images, SWEDISH_SIZE, SWEDISH_GET)


def _swedish_images(folder: Path) -> list[Path]:
    return [
        _swedish_image(folder / part, name) for part in SWEDISH_MD5 for name in read_swedish(folder / part / "annotations.txt")
    ]


def _size_problems(images: Sequence[Path], size: tuple[int, int], get: str) -> list[str]:
    found = []
    for path in images:
        try:
            shape = tuple(read_image(path, get).shape[1:])
        except DataError as error:
            found.append(str(error))
            continue
        if shape != size:
            found.append(f"{path}: {shape[0]} × {shape[1]} pixels, expected {size[0]} × {size[1]}")
    return found
