"""The whole of MNIST, read from the four files of its authors."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from atslib.data.files import DataError, find_set

GET = "python -m atslib.data get mnist"
FOLDER = "mnist"

# md5 of the files' uncompressed contents: copies are gzipped differently.
FILES = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def full_mnist(split: str, root: str | os.PathLike | None = None) -> tuple[UInt8[np.ndarray, "M 28 28"], UInt8[np.ndarray, " M"]]:
    """All 60,000 training or 10,000 test digits, images and labels.

    Args:
        split: ``"train"`` or ``"test"``.
        root: the data root; ``mnist/`` below it holds the four idx files, gzipped or not.

    Raises:
        DataError: a file is missing or its contents are not MNIST's.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split={split!r}: expected 'train' or 'test'")
    folder = find_mnist(root)
    prefix = {"train": "train", "test": "t10k"}[split]
    return _read(folder, f"{prefix}-images-idx3-ubyte"), _read(folder, f"{prefix}-labels-idx1-ubyte")


def find_mnist(root: str | os.PathLike | None = None) -> Path:
    """The folder of the four files."""
    marker = "train-images-idx3-ubyte"
    try:
        return find_set(root, FOLDER, marker, GET)
    except DataError:
        return find_set(root, FOLDER, f"{marker}.gz", GET)


def problems(folder: Path) -> list[str]:
    """What is missing or wrong in the folder; nothing when it is whole."""
    found = []
    for name in FILES:
        try:
            contents(folder, name)
        except DataError as error:
            found.append(str(error))
    return found


def contents(folder: Path, name: str) -> bytes:
    """A file's bytes, unpacked and compared with the digest that is known."""
    raw = folder / name
    return checked(raw if raw.exists() else folder / f"{name}.gz")


def checked(path: Path) -> bytes:
    """The same of one path, gzipped where its name says so."""
    name = path.name.removesuffix(".gz")
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except FileNotFoundError as error:
        raise DataError(f"{path}: not there; get it with `{GET}`") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged ({error}); delete it and get it again with `{GET}`") from error
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if digest != FILES[name]:
        raise DataError(f"{path}: md5 of its contents is {digest}, expected {FILES[name]}; delete it and run `{GET}`")
    return data


@lru_cache(maxsize=4)
def _read(folder: Path, name: str) -> np.ndarray:
    data = contents(folder, name)
    # idx: two zero bytes, the type (8 is uint8), the number of axes, each axis's length as a big-endian uint32.
    axes = data[3]
    shape = np.frombuffer(data, ">u4", axes, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)  # read only, shared by whoever asks
