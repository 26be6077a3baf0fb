"""The paper's colon cancer images: does an H&E-stained image show epithelial nuclei? (§4.3)

100 images of 500 × 500 pixels from slides of colorectal adenocarcinomas, with 22,444 nuclei whose kind an expert has
marked (Sirinukunwattana et al., 2016). Only the label of the whole image is trained on; positions are for pictures.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from jaxtyping import Float

from atslib.data.files import DataError, ImageFiles, find_set, needed, read_image

GET = "python -m atslib.data get colon_cancer --from ZIP_OR_FOLDER"
FOLDER = "colon_cancer/CRCHistoPhenotypes_2016_04_28"
KINDS = ("epithelial", "fibroblast", "inflammatory", "others")
N_IMAGES = 100
SIZE = 500
N_FOLDS = 5
NUCLEI = {"epithelial": 7722, "fibroblast": 5712, "inflammatory": 6971, "others": 2039}  # marked, in the whole set
DETECTED = 29756

# Where a run of images that look like one piece of tissue begins. The set does not say which slide an image comes from;
# this was judged by eye from the images in order of their numbers, and where in doubt runs were joined.
RUNS = (
    *(1, 3, 5, 7, 9, 11, 13, 15, 17, 21, 23, 25, 27, 29, 34, 36, 40, 42, 44, 46, 48, 50, 54, 56, 60, 62, 64, 65, 69, 73),
    *(77, 81, 85, 89, 93, 97),
)


class ColonCancer(ImageFiles):
    """Images labelled by whether they show at least one epithelial nucleus: 51 do, 49 do not.

    Each of the five folds tests on about 20 images and trains on the others; every image is tested in one fold.

    Args:
        root: the data root, or the folder ``CRCHistoPhenotypes_2016_04_28`` itself.
        split: ``"all"``, ``"train"`` or ``"test"``.
        fold: 0 … 4, which of the five.
        scheme: how folds are made. ``"stratified"``: at random, each with its share of both classes, as is usual for this
            set. ``"runs"``: images that look like one piece of tissue, always neighbours in number (:data:`RUNS`), stay
            together; the other scheme tests on pieces of tissue seen in training.
        seed: of the folds; another seed, other folds.
        cache: see :class:`atslib.data.files.ImageFiles`; 75 MB.

    Items are ``(image, label)``: uint8 of shape ``(3, 500, 500)`` and an int.

    Raises:
        DataError: the set is missing, or an image or an annotation of it is.
    """

    classes = ("no epithelial nucleus", "epithelial nuclei")
    get = GET

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        split: str = "all",
        *,
        fold: int = 0,
        scheme: str = "stratified",
        seed: int = 0,
        cache: str | os.PathLike | None = None,
    ):
        if split not in ("all", "train", "test"):
            raise ValueError(f"split={split!r}: expected 'all', 'train' or 'test'")
        if scheme not in ("stratified", "runs"):
            raise ValueError(f"scheme={scheme!r}: expected 'stratified' or 'runs'")
        if fold not in range(N_FOLDS):
            raise ValueError(f"fold={fold!r}: expected 0 … {N_FOLDS - 1}")
        self.folder = find_set(root, FOLDER, "Classification", GET)
        check_complete(self.folder)
        everything = range(1, N_IMAGES + 1)
        labels = np.array([len(read_points(points_file(self.folder, n, "epithelial"))) > 0 for n in everything], dtype=np.int64)
        tested = folds(labels, scheme, seed) == fold
        chosen = {"all": np.ones(N_IMAGES, dtype=bool), "train": ~tested, "test": tested}[split]
        self.ids = tuple(n for n, taken in zip(everything, chosen, strict=True) if taken)
        super().__init__([image_file(self.folder, n) for n in self.ids], labels[chosen].tolist(), cache=cache)

    def nuclei(self, number: int) -> dict[str, Float[np.ndarray, "M 2"]]:
        """Positions (x, y) in pixels of the nuclei of each kind; for pictures, never for training."""
        return {kind: read_points(points_file(self.folder, self.ids[number], kind)) for kind in KINDS}

    def detected(self, number: int) -> Float[np.ndarray, "M 2"]:
        """Positions (x, y) in pixels of all nuclei, marked with a kind or not; for pictures, never for training."""
        return read_points(self.folder / "Detection" / f"img{self.ids[number]}" / f"img{self.ids[number]}_detection.mat")


def folds(labels: np.ndarray, scheme: str = "stratified", seed: int = 0) -> np.ndarray:
    """Which of the five folds tests each of the 100 images, ``(100,)``."""
    random = np.random.RandomState(np.random.PCG64(np.random.SeedSequence([seed, ("stratified", "runs").index(scheme)])))
    fold = np.empty(len(labels), dtype=np.int64)
    if scheme == "stratified":
        # Deal the shuffled positives, then the shuffled negatives, going on where the positives ended.
        order = np.concatenate([random.permutation(np.flatnonzero(labels == label)) for label in (1, 0)])
        fold[order] = np.arange(len(order)) % N_FOLDS
        return fold
    # The longest runs first, each to the fold that lacks most of what the run has.
    runs = np.split(np.arange(len(labels)), np.array(RUNS[1:]) - 1)
    runs = sorted((runs[i] for i in random.permutation(len(runs))), key=len, reverse=True)
    lacks = np.tile([np.sum(labels == 0) / N_FOLDS, np.sum(labels == 1) / N_FOLDS], (N_FOLDS, 1))  # (folds, classes)
    for run in runs:
        has = np.bincount(labels[run], minlength=2)
        chosen = int(np.argmax(lacks @ has))
        fold[run] = chosen
        lacks[chosen] -= has
    return fold


def image_file(folder: Path, number: int) -> Path:
    return folder / "Classification" / f"img{number}" / f"img{number}.bmp"


def points_file(folder: Path, number: int, kind: str) -> Path:
    return folder / "Classification" / f"img{number}" / f"img{number}_{kind}.mat"


def read_points(path: Path) -> Float[np.ndarray, "M 2"]:
    """Points (x, y) = (column, row) from a MATLAB file.

    Raises:
        DataError: a file that is missing, damaged or without the key ``detection``.
    """
    loadmat = needed("scipy.io").loadmat
    try:
        values = loadmat(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: not there; get the set again with `{GET}`") from error
    except Exception as error:  # scipy raises many kinds for a damaged file
        raise DataError(f"{path}: no readable MATLAB file ({error}); get the set again with `{GET}`") from error
    if "detection" not in values:
        keys = sorted(key for key in values if not key.startswith("__"))
        raise DataError(f"{path}: no array 'detection' in it, only {keys}; it is no file of this set, get it with `{GET}`")
    try:
        points = np.asarray(values["detection"], dtype=np.float64)
    except (TypeError, ValueError) as error:  # text, a struct, a cell
        raise DataError(f"{path}: 'detection' is no array of numbers ({error}); get the set again with `{GET}`") from error
    if points.size == 0:
        return np.empty((0, 2))
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise DataError(f"{path}: 'detection' has shape {points.shape}; expected finite numbers (M, 2), x and y of each nucleus")
    return points


def check_complete(folder: Path) -> None:
    """Raise a DataError unless every image and every annotation of it is there; contents are not read."""
    here = folder / "Classification"
    missing = [
        path
        for number in range(1, N_IMAGES + 1)
        for path in (image_file(folder, number), *(points_file(folder, number, kind) for kind in KINDS))
        if not path.exists()
    ]
    if missing:
        images = sum(path.suffix == ".bmp" for path in missing)
        orphans = [path for path in missing if path.suffix == ".bmp" and path.parent.is_dir() and any(path.parent.iterdir())]
        also = "; its annotations are there" if missing[0] in orphans else ""
        raise DataError(
            f"{missing[0]}: not there{also} ({images} of {N_IMAGES} images and {len(missing) - images} of "
            f"{N_IMAGES * len(KINDS)} annotations are missing in {here}); get the set again with `{GET}`"
        )
    strays = sorted(path.name for path in here.iterdir() if path.is_dir() and path.name not in {f"img{n}" for n in range(1, 101)})
    if strays:
        raise DataError(f"{here / strays[0]}: not of this set, whose images are img1 … img{N_IMAGES}; take it away")


def problems(folder: Path) -> list[str]:
    """What is missing or wrong in the folder, after reading every file of it; nothing when it is whole."""
    try:
        check_complete(folder)
    except DataError as error:
        return [str(error)]
    found = []
    counts, detected = dict.fromkeys(KINDS, 0), 0
    for number in range(1, N_IMAGES + 1):
        try:
            shape = tuple(read_image(image_file(folder, number), GET).shape)
            if shape != (3, SIZE, SIZE):
                found.append(f"{image_file(folder, number)}: {shape[1]} × {shape[2]} pixels, expected {SIZE} × {SIZE}")
            for kind in KINDS:
                path = points_file(folder, number, kind)
                points = read_points(path)
                counts[kind] += len(points)
                if len(points) and (points.min() < 0 or points.max() > SIZE):
                    found.append(f"{path}: a nucleus outside the image, between {points.min():g} and {points.max():g}")
            path = folder / "Detection" / f"img{number}" / f"img{number}_detection.mat"
            detected += len(read_points(path))
        except DataError as error:
            found.append(str(error))
    if not found and counts != NUCLEI:
        found.append(f"{folder}: nuclei {counts}, expected {NUCLEI}; is it the release of 2016_04_28?")
    if not found and detected != DETECTED:
        found.append(f"{folder}: {detected} detected nuclei, expected {DETECTED}; is it the release of 2016_04_28?")
    return found
