"""Images in files too large to be read: whole slides, tiled TIFF, zarr, of which only what is looked at is read.

:class:`ImagePyramid` goes wherever a tensor ``(1, C, H, W)`` goes: into a model, :func:`atslib.patches.extract_patches` and
:func:`atslib.patches.downsample`. Its patches come from the finest resolution, its view from the coarsest that is fine enough.

>>> import numpy as np
>>> from atslib.patches import downsample, extract_patches
>>> fine = np.arange(64, dtype=np.uint8).reshape(8, 8)  # any array that can be sliced: a memory map, an HDF5 or zarr array
>>> pyramid = ImagePyramid([fine])
>>> pyramid.shape, pyramid.dtype
(torch.Size([1, 1, 8, 8]), torch.uint8)
>>> extract_patches(pyramid, torch.tensor([[[6, 6]]]), 2).flatten().tolist()
[54, 55, 62, 63]
>>> (255 * downsample(pyramid, 2)).flatten().round().int().tolist()  # 13.5, 17.5, 45.5, 49.5
[14, 18, 46, 50]
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from atslib.data.files import DataError, needed
from atslib.patches import ImageSource, check_aspect, covered, overlaps

# Pixel values that are read at a time for a view: some tiles of a slide, and some ten megabytes as floating point.
_BLOCK = 1 << 22
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the first bytes: little and big endian, of 32 and of 64 bits


class ImagePyramid(ImageSource):
    """One image at one or several resolutions, of which only what is looked at is read.

    Patches are those of the tensor with the same pixels. A view is the mean of each of its pixels' area, taken over the coarsest
    level that has at least its size, and so as good as that level: of a level made by leaving out pixels, not the mean of the
    image. ``ImagePyramid(pyramid.levels[:1])`` takes the mean over all pixels, and reads them all. Views are kept, so that a
    second look at the same image costs its patches only.

    Args:
        levels: arrays from the finest to the coarsest, ``(H, W)`` or ``(H, W, C)``, that give a NumPy array when they are sliced.
            Networks see the channels that are there: RGB of most slides, four of a file with transparency.
        channels_first: whether the arrays are ``(C, H, W)``.
        white: for whole numbers of other types than uint8: the value that networks see as 1 (65535, say, or 4095 of a camera
            with 12 bits). Patches and views are float32 then.

    Attributes:
        shape: ``(1, C, H, W)``.
        levels: the arrays.

    Raises:
        ValueError: no level; levels that are no images, differ in type, channels or proportions, or do not shrink; a type whose
            range is not known.
    """

    def __init__(self, levels: Iterable, *, channels_first: bool = False, white: float | None = None):
        levels = tuple(levels)
        if not levels:
            raise ValueError("an image of 0 levels: expected at least one, the image itself")
        self._levels, self._channels_first, self.white = levels, channels_first, white
        self._views: dict[tuple[int, int], Tensor] = {}
        self._path: Path | None = None
        self._close: Callable[[], object] | None = None
        self._process = os.getpid()
        finest = self._shape(levels[0])
        for one, other in itertools.pairwise(levels):
            fine, coarse = self._shape(one), self._shape(other)
            if coarse[0] != finest[0] or other.dtype != levels[0].dtype:
                raise ValueError(
                    f"a level of {coarse[0]} channels of {other.dtype} after one of {finest[0]} of {levels[0].dtype}: "
                    "expected the same image at a lower resolution"
                )
            if coarse[1] > fine[1] or coarse[2] > fine[2]:
                raise ValueError(f"a level of {coarse[1:]} after one of {fine[1:]}: expected the finest first")
            check_aspect(finest[1:], coarse[1:])
        self.shape = torch.Size((1, *finest))
        kind = np.dtype(levels[0].dtype)
        if white is not None and not (math.isfinite(white) and white > 0):
            raise ValueError(f"white={white}: expected the value that is seen as 1, above 0")
        if kind == np.uint8 and white is None:
            self.dtype = torch.uint8
        elif kind.kind in "iu" and white is not None:
            self.dtype = torch.float32
        elif kind.kind == "f" and kind.itemsize <= 8 and white is None:
            self.dtype = torch.from_numpy(np.empty(0, kind.newbyteorder("="))).dtype
        else:
            expected = "white=…, the value that networks see as 1" if kind.kind in "iu" else "uint8 or floating point as they are"
            raise ValueError(f"pixels of type {kind}, white={white}: expected {expected}")

    @classmethod
    def open(cls, path: str | os.PathLike, *, white: float | None = None) -> ImagePyramid:
        """An image file: TIFF, best tiled, with its levels if it has some; a zarr array or OME-Zarr image; any whole slide that
        OpenSlide knows (MRXS, DICOM, …).

        Of further axes (time, depth, series) the first position is taken. What needs the file is done when it is looked at, and
        again in another process, so that pyramids may be items of a data set that workers read. A file that is not tiled works
        too, but each look reads whole strips of it, or all.

        Args:
            path: of the file or zarr folder.
            white: as above.

        Raises:
            DataError: a file that is missing, damaged, or of a kind that nothing installed reads.
            ImportError: the package that reads this kind is missing: ``pip install 'atslib[slides]'``.
            ValueError: as above.
        """
        path = Path(path).expanduser()
        opened = _open(path)
        pyramid = cls(opened.levels, channels_first=opened.channels_first, white=white)
        pyramid._path, pyramid._close = path.absolute(), opened.close
        return pyramid

    @property
    def levels(self) -> tuple:
        """The arrays of the resolutions, the finest first."""
        if self._path is not None and self._process != os.getpid():  # two processes would share one position in the file
            opened = _open(self._path)
            self._levels, self._close, self._process = tuple(opened.levels), opened.close, os.getpid()
        return self._levels

    def close(self) -> None:
        """Close the file until it is looked at again: a system lets a process have some hundred files open, and no more."""
        if self._path is not None and self._process == os.getpid():
            self._close()
            self._levels, self._process = (), None

    def read_patches(self, top_left: Int[Tensor, "1 N 2"], size: tuple[int, int], fill: float) -> Shaped[Tensor, "1 N C h w"]:
        _, channels, height, width = self.shape
        corners, which = top_left[0].unique(dim=0, return_inverse=True)  # attention likes to look again where it has looked
        patches = torch.full((len(corners), *size, channels), fill, dtype=self.dtype)
        for patch, (top, left) in zip(patches, corners.tolist(), strict=True):
            rows, columns = _inside(top, size[0], height), _inside(left, size[1], width)
            if rows.start < rows.stop and columns.start < columns.stop:
                there = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
                patch[there] = self._read(0, rows, columns)
        return patches[which][None].permute(0, 1, 4, 2, 3)  # channels last in memory, as convolutions like it

    def read_view(self, size: tuple[int, int]) -> Float[Tensor, "1 C h w"]:
        size = tuple(size)
        if size not in self._views:
            sizes = [self._shape(level)[1:] for level in self.levels]
            level = max(k for k, (height, width) in enumerate(sizes) if height >= size[0] and width >= size[1])
            means = _means(lambda rows, columns: self._read(level, rows, columns), sizes[level], size, self.shape[1])
            if self.dtype == torch.uint8:
                self._views[size] = means.div_(255)
            else:
                self._views[size] = means.to(self.dtype)
        return self._views[size][None].clone()

    def _shape(self, level) -> tuple[int, int, int]:
        """Channels, height and width of an array."""
        if len(level.shape) == 2 and not self._channels_first:
            return 1, *map(int, level.shape)
        if len(level.shape) != 3 or not all(level.shape):
            raise ValueError(
                f"a level of shape {tuple(level.shape)}: expected (C, H, W)"
                if self._channels_first
                else f"a level of shape {tuple(level.shape)}: expected (H, W) or (H, W, C)"
            )
        height, width, channels = level.shape[1:] + level.shape[:1] if self._channels_first else level.shape
        return int(channels), int(height), int(width)

    def _read(self, level: int, rows: slice, columns: slice) -> Shaped[Tensor, "h w C"]:
        array = self.levels[level]
        try:
            pixels = np.asarray(array[:, rows, columns] if self._channels_first else array[rows, columns])
        except Exception as error:
            if self._path is None:
                raise
            raise DataError(
                f"{self._path}: rows {rows.start} to {rows.stop}, columns {columns.start} to {columns.stop} cannot be read "
                f"({error}); copy the file again"
            ) from error
        if self._channels_first:
            pixels = pixels.transpose(1, 2, 0)
        elif pixels.ndim == 2:
            pixels = pixels[..., None]
        if self.white is not None:
            pixels = pixels.astype(np.float32) / np.float32(self.white)
        pixels = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("="))
        return torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())

    def __reduce__(self):
        if self._path is None:
            return super().__reduce__()
        return _reopened, (type(self), self._path, self.white, self._views)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{height} × {width}" for _, height, width in map(self._shape, self.levels))
        where = f"{self._path}: " if self._path else ""
        return f"<ImagePyramid {where}{self.shape[1]} channel{'s' * (self.shape[1] > 1)}, {self.dtype}, {sizes}>"


def _inside(first: int, length: int, side: int) -> slice:
    """The part of a range of pixels that lies in the image."""
    return slice(min(max(first, 0), side), min(max(first + length, 0), side))


def _means(
    read: Callable[[slice, slice], Shaped[Tensor, "p r C"]], fine: tuple[int, int], coarse: tuple[int, int], channels: int
) -> Float[Tensor, "C h w"]:
    """What :func:`atslib.patches.downsample` gives, of pixels that are read block by block."""
    pixels = channels * math.prod(fine) / math.prod(coarse)  # values for one pixel of the view
    side = max(1, math.isqrt(int(_BLOCK / pixels)))
    means = None
    for top in range(0, coarse[0], side):
        for left in range(0, coarse[1], side):
            bottom, right = min(top + side, coarse[0]), min(left + side, coarse[1])
            rows, columns = covered(fine[0], coarse[0], top, bottom), covered(fine[1], coarse[1], left, right)
            block = read(slice(*rows), slice(*columns))
            block = block.to(torch.promote_types(block.dtype, torch.float32))
            down = overlaps(fine[0], coarse[0], top, bottom).to(block.dtype)  # (q, p)
            across = overlaps(fine[1], coarse[1], left, right).to(block.dtype)  # (s, r)
            with torch.autocast("cpu", enabled=False):
                part = down @ block.permute(2, 0, 1) @ across.T  # (C, q, s)
            if means is None:
                means = torch.empty(channels, *coarse, dtype=part.dtype)
            means[:, top:bottom, left:right] = part
    return means


def _reopened(kind: type, path: Path, white: float | None, views: dict) -> ImagePyramid:
    pyramid = kind.open(path, white=white)
    pyramid._views = dict(views)
    return pyramid


@dataclass
class _Opened:
    """The levels of an image file, whether their channels come first, and how it is closed."""

    levels: list
    channels_first: bool
    close: Callable[[], object]


def _open(path: Path) -> _Opened:
    if path.is_dir():
        return _zarr_levels(path)
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; expected an image file") from error
    try:
        return _tiff_levels(path) if start in _TIFF else _slide_levels(path)
    except (DataError, ImportError):
        raise
    except Exception as error:  # each package has its own
        raise DataError(
            f"{path}: no readable image ({error}); expected TIFF, zarr, or a slide that OpenSlide knows; read_image reads others"
        ) from error


def _tiff_levels(path: Path) -> _Opened:
    tifffile, zarr = _package("tifffile"), _package("zarr")
    file = tifffile.TiffFile(path)
    image = file.series[0]  # SVS and others keep labels and thumbnails in further series
    if (kind := image.keyframe.photometric) in (tifffile.PHOTOMETRIC.PALETTE, tifffile.PHOTOMETRIC.MINISWHITE):
        raise DataError(f"{path}: pixels of the kind {kind.name}, which are no brightness: convert the file to RGB or grey")
    arrays = [zarr.open(image.aszarr(level=level), mode="r") for level in range(len(image.levels))]
    planes = [_Plane(array, level.axes) for array, level in zip(arrays, image.levels, strict=True)]
    return _Opened(planes, planes[0].channels_first, file.close)


def _zarr_levels(path: Path) -> _Opened:
    zarr = _package("zarr")
    try:
        opened = zarr.open(str(path), mode="r")
        if hasattr(opened, "shape"):
            few = [axis for axis, side in enumerate(opened.shape) if side <= 4]
            axes = {2: "YX", 3: "YXC" if 2 in few else "CYX" if 0 in few else ""}.get(len(opened.shape), "")
            if not axes:
                raise DataError(
                    f"{path}: an array of shape {tuple(opened.shape)}: expected (H, W), (H, W, C) or (C, H, W) of at most four "
                    "channels; ImagePyramid([zarr.open(…)], channels_first=…) takes others"
                )
            planes = [_Plane(opened, axes)]
        else:  # OME-Zarr; its version 0.5 has a name for what is its own
            image = (opened.attrs.get("ome") or opened.attrs)["multiscales"][0]
            names = [axis["name"] if isinstance(axis, dict) else axis for axis in image.get("axes", "tczyx")]
            planes = [_Plane(opened[level["path"]], "".join(name[0] for name in names).upper()) for level in image["datasets"]]
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path}: no readable image ({error!r}); expected a zarr array, or OME-Zarr with multiscales") from error
    return _Opened(planes, planes[0].channels_first, lambda: None)


def _slide_levels(path: Path) -> _Opened:
    slide = _package("openslide").OpenSlide(path)
    return _Opened([_SlideLevel(slide, level) for level in range(slide.level_count)], False, slide.close)


class _Plane:
    """An array with more axes than an image has, at the first position of those; by slices of the others, in their order."""

    def __init__(self, array, axes: str):
        channel = "S" if "S" in axes else "C"  # samples of a pixel, else an axis of planes
        kept = [axis for axis in axes if axis in ("Y", "X", channel)]
        if kept not in (["Y", "X"], ["Y", "X", channel], [channel, "Y", "X"]) or len(axes) != len(array.shape):
            raise ValueError(f"axes {axes} of shape {tuple(array.shape)}: expected Y, X, and channels before or after")
        self._array, self._kept = array, [axis in kept for axis in axes]
        self.shape = tuple(side for side, keep in zip(array.shape, self._kept, strict=True) if keep)
        self.dtype = array.dtype
        self.channels_first = kept[0] == channel

    def __getitem__(self, slices: tuple[slice, ...]) -> np.ndarray:
        wanted = iter(slices + (slice(None),) * (len(self.shape) - len(slices)))
        return self._array[tuple(next(wanted) if keep else 0 for keep in self._kept)]


class _SlideLevel:
    """A level of a slide that OpenSlide reads, as RGB; what was not scanned has the slide's background colour."""

    dtype = np.dtype(np.uint8)

    def __init__(self, slide, level: int):
        self._slide, self._level = slide, level
        width, height = slide.level_dimensions[level]
        self.shape = (height, width, 3)
        colour = slide.properties.get("openslide.background-color", "ffffff")
        self._background = np.array([int(colour[k : k + 2], 16) for k in (0, 2, 4)], np.uint16)

    def __getitem__(self, slices: tuple[slice, slice]) -> np.ndarray:
        rows, columns = slices
        scale = self._slide.level_downsamples[self._level]  # OpenSlide counts places in pixels of the finest level
        place = round(columns.start * scale), round(rows.start * scale)
        size = columns.stop - columns.start, rows.stop - rows.start
        pixels = np.asarray(self._slide.read_region(place, self._level, size)).astype(np.uint16)  # (h, w, RGBA)
        opaque = pixels[..., 3:]
        return ((pixels[..., :3] * opaque + self._background * (255 - opaque) + 127) // 255).astype(np.uint8)


def _package(name: str) -> ModuleType:
    try:
        return needed(name)
    except ImportError as error:
        raise ImportError(f"this kind of image needs {name}: pip install 'atslib[slides]'") from error
