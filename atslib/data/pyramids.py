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
import mmap
import os
import warnings
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from atslib.data.files import DataError, needed
from atslib.patches import ImageSource, check_aspect, covered, overlaps
from atslib.warned import warn

# Pixel values that are read at a time for a view, if one pixel of it does not need more: some ten megabytes in floating point.
_BLOCK = 1 << 22
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the first bytes: little and big endian, of 32 and of 64 bits


class ImagePyramid(ImageSource):
    """One image at one or several resolutions, of which only what is looked at is read.

    Patches are those of the tensor with the same pixels. A view is the mean of each of its pixels' area, taken over the coarsest
    level that has its size (less one pixel, since scanners round down), and so as good as that level: of a level made by leaving
    out pixels, not the mean of the image. With the finest level alone it is the mean over all pixels, and reads them all. The
    last view is kept, so that a second look at the same image costs its patches only.

    Pixels are read where the model runs. In a data set read by workers, a worker that calls ``downsample(pyramid, size)`` first
    sends the view along; patches are read by the process that draws them.

    Args:
        levels: a list of arrays from the finest to the coarsest, ``(H, W)`` or ``(H, W, C)``, NumPy arrays when sliced.
            Networks see the channels that are there: RGB of most slides, four of a file with transparency.
        channels_first: whether the arrays are ``(C, H, W)``, as tensors mostly are. Where their shape looks like it, it has to
            be said.
        white: for whole numbers of other types than uint8: the value that networks see as 1 (65535, say, or 4095 of a camera
            with 12 bits). Patches and views are float32 then.

    Attributes:
        shape: ``(1, C, H, W)``.
        levels: the arrays.

    Raises:
        ValueError: no level, or an array in place of a list; arrays that look like ``(C, H, W)`` where nothing is said; levels
            that are no images, differ in type, channels or proportions, or do not shrink; a type whose range is not known.
    """

    def __init__(self, levels: Iterable, *, channels_first: bool | None = None, white: float | None = None):
        if hasattr(levels, "shape"):
            raise ValueError(f"levels of shape {tuple(levels.shape)}: expected a list of arrays, [array] for one")
        levels = tuple(levels)
        if channels_first is None:
            for level in levels:
                if len(level.shape) == 3 and level.shape[0] <= 4 < level.shape[2]:
                    raise ValueError(
                        f"a level of shape {tuple(level.shape)}: (C, H, W), or {level.shape[2]} channels? expected "
                        "channels_first=True or False"
                    )
            channels_first = False
        levels = tuple(level.numpy() if isinstance(level, Tensor) else level for level in levels)
        if not levels:
            raise ValueError("an image of 0 levels: expected at least one, the image itself")
        self._levels, self._channels_first, self.white = levels, channels_first, white
        self._view: Tensor | None = None  # the last one, (C, h, w)
        self._path: Path | None = None
        self._most: int | None = None  # levels of the file to take
        self._missing: float | None = None  # value of its missing tiles
        self._finalizer: weakref.finalize | None = None
        self._process: int | None = os.getpid()
        self._shapes = [self._shape(level) for level in levels]
        finest = self._shapes[0]
        for other, (fine, coarse) in zip(levels[1:], itertools.pairwise(self._shapes), strict=True):
            if coarse[0] != finest[0] or other.dtype != levels[0].dtype:
                raise ValueError(
                    f"a level of {coarse[0]} channels of {other.dtype} after one of {finest[0]} of {levels[0].dtype}: "
                    "expected the same image at a lower resolution"
                )
            if coarse[1] > fine[1] or coarse[2] > fine[2] or coarse == fine:
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
    def open(
        cls,
        path: str | os.PathLike,
        *,
        levels: int | None = None,
        white: float | None = None,
        missing: float | None = None,
    ) -> ImagePyramid:
        """An image file: TIFF, best tiled, with its levels if it has some; a zarr array or OME-Zarr image; any whole slide that
        OpenSlide knows (MRXS, DICOM, …).

        Of several images in a file the largest is taken, of further axes (time, depth) the first position. Headers are read now,
        pixels when they are looked at. A process that did not open the file opens it for itself, so that pyramids may be items
        of a data set. A file that is not tiled works too, but each look reads whole strips of it, or all.

        Args:
            path: of the file or zarr folder.
            levels: how many of the file's levels to use, from the finest; all unless given. With 1, views are made from all
                pixels.
            white: as above.
            missing: the value, in the file's own range, of tiles that a TIFF leaves out, often what was not scanned: 255 where
                the ground is white. Unless given it is the file's own word for that, or 0, and there is a warning; a prior
                that looks for what is dark would look there.

        Raises:
            DataError: a file that is missing, damaged, or of a kind that nothing installed reads; colours that are no RGB.
            ImportError: the package that reads this kind is missing: ``pip install 'atslib[slides]'``.
            ValueError: as above.
        """
        if levels is not None and not (isinstance(levels, Integral) and levels >= 1):
            raise ValueError(f"levels={levels}: expected a whole number, at least 1, the finest")
        path = Path(path).expanduser()
        opened = _open(path, missing)
        if opened.absent and missing is None:
            warn(
                f"{path}: {opened.absent} tiles are not in the file and are read as {opened.fill:g}; name what stands for them, "
                "missing=255 for white"
            )
        if opened.turned:
            warn(f"{path}: the file's orientation is not applied; rows and columns are as they are stored")
        if opened.bits and white is None:
            opened.close()
            raise ValueError(f"{path}: values of {opened.bits} bits: expected white={2**opened.bits - 1}, what networks see as 1")
        try:
            pyramid = cls(opened.levels[:levels], channels_first=opened.channels_first, white=white)
        except ValueError:
            opened.close()
            raise
        pyramid._path, pyramid._most, pyramid._missing = path.absolute(), levels, missing
        pyramid._finalizer = weakref.finalize(pyramid, _close_in, os.getpid(), opened.close)
        return pyramid

    @property
    def levels(self) -> tuple:
        """The arrays of the resolutions, the finest first."""
        if self._path is not None and self._process != os.getpid():  # two processes would share one position in the file
            opened = _open(self._path, self._missing)
            self._levels, self._process = tuple(opened.levels[: self._most]), os.getpid()
            self._finalizer = weakref.finalize(self, _close_in, os.getpid(), opened.close)
        return self._levels

    def close(self) -> None:
        """Close the file until it is looked at again, and forget the view.

        A system lets a process have some hundred files open, and the views of a thousand slides take memory: close what you keep.
        """
        self._view = None
        if self._path is not None and self._process == os.getpid():
            self._finalizer()
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
        if self._view is None or tuple(self._view.shape[1:]) != tuple(size):
            fine_enough = [k for k, (_, *sides) in enumerate(self._shapes) if sides[0] >= size[0] - 1 and sides[1] >= size[1] - 1]
            level = fine_enough[-1]
            tile = _tile(self.levels[level], self._channels_first)
            means = _means(partial(self._read, level), self._shapes[level], size, *tile)
            self._view = means.div_(255) if self.dtype == torch.uint8 else means.to(self.dtype)
        return self._view[None].clone()  # what a network does in place must not change it

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
            if "imagecodecs" in str(error):
                raise ImportError(f"{self._path}: this compression needs imagecodecs: pip install 'atslib[slides]'") from error
            if self._path is None or isinstance(error, MemoryError):
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
            levels = tuple(map(_Mapped.of, self._levels))
            return _restored, (type(self), self.__dict__ | dict(_process=None, _levels=levels))
        return _reopened, (type(self), self._path, self._most, self.white, self._missing, self._view)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{height} × {width}" for _, height, width in self._shapes)
        where = f"{self._path}: " if self._path else ""
        return f"<ImagePyramid {where}{self.shape[1]} channel{'s' * (self.shape[1] > 1)}, {self.dtype}, {sizes}>"


def _inside(first: int, length: int, side: int) -> slice:
    """The part of a range of pixels that lies in the image."""
    return slice(min(max(first, 0), side), min(max(first + length, 0), side))


def _tile(array, channels_first: bool) -> tuple[int, int]:
    """Rows and columns of the pieces in which an array is read: of a file its tiles or strips, else one row."""
    chunks = getattr(array, "chunks", None)
    if not isinstance(chunks, tuple) or len(chunks) != len(array.shape) or not all(isinstance(side, int) for side in chunks):
        return 1, array.shape[2 if channels_first else 1]
    return chunks[1:] if channels_first else chunks[:2]


def _means(
    read: Callable[[slice, slice], Shaped[Tensor, "p r C"]],
    fine: tuple[int, int, int],
    coarse: tuple[int, int],
    tile_height: int,
    tile_width: int,
) -> Float[Tensor, "C h w"]:
    """What :func:`atslib.patches.downsample` gives, of pixels that are read block by block.

    Args:
        fine: channels, height and width of what is read; the sides may also be a pixel smaller than those of the view.
        tile_height, tile_width: of the pieces that can be read, to read few of them twice.
    """
    channels, height, width = fine
    pixels = channels * height * width / math.prod(coarse)  # values for one pixel of the view
    if tile_width < width:  # tiles: square blocks
        rows_at_a_time = columns_at_a_time = max(1, math.isqrt(int(_BLOCK / pixels)))
    else:  # strips: whole ones, if need be the image
        columns_at_a_time = coarse[1]
        rows_at_a_time = max(1, int(_BLOCK / (pixels * coarse[1])), tile_height * coarse[0] // height)
    lefts = range(0, coarse[1], columns_at_a_time)
    spans = [_span(width, coarse[1], left, min(left + columns_at_a_time, coarse[1])) for left in lefts]  # the same in all rows
    means = None
    for top in range(0, coarse[0], rows_at_a_time):
        bottom = min(top + rows_at_a_time, coarse[0])
        rows, down = slice(*covered(height, coarse[0], top, bottom)), overlaps(height, coarse[0], top, bottom)  # (q, p)
        for left, right, columns, across in spans:
            block = read(rows, columns)
            block = block.to(torch.promote_types(block.dtype, torch.float32))
            if means is None:
                means = block.new_empty(channels, *coarse)
            with torch.autocast("cpu", enabled=False):
                part = down.to(block) @ block.permute(2, 0, 1)  # (C, q, r)
                parts = [part[..., start:stop] @ weights.to(block).T for start, stop, weights in across]
            means[:, top:bottom, left:right] = torch.cat(parts, dim=2)
    return means


def _span(fine: int, coarse: int, left: int, right: int) -> tuple[int, int, slice, list[tuple[int, int, Float[Tensor, "s r"]]]]:
    """A stretch of the view's columns (from, up to), the pixels under it, and for every 32 columns which of these (from, up to),
    with what weights: those of a whole row would be nearly all zero."""
    start, stop = covered(fine, coarse, left, right)
    across = []
    for first in range(left, right, 32):
        last = min(first + 32, right)
        near, far = covered(fine, coarse, first, last)
        across.append((near - start, far - start, overlaps(fine, coarse, first, last)))
    return left, right, slice(start, stop), across


def _close_in(process: int, close: Callable[[], object]) -> None:
    """Close a file, if this is the process that has opened it."""
    if os.getpid() == process:
        close()


def _reopened(
    kind: type, path: Path, levels: int | None, white: float | None, missing: float | None, view: Tensor | None
) -> ImagePyramid:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said when it was opened first
        pyramid = kind.open(path, levels=levels, white=white, missing=missing)
    pyramid._view = view
    return pyramid


def _restored(kind: type, state: dict) -> ImagePyramid:
    levels = tuple(level.open() if isinstance(level, _Mapped) else level for level in state["_levels"])
    pyramid = kind.__new__(kind)
    pyramid.__dict__.update(state | dict(_levels=levels))
    return pyramid


@dataclass
class _Mapped:
    """Where a memory map lies, which goes to another process in place of its pixels."""

    path: str
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]

    @classmethod
    def of(cls, level):
        """The place of a whole map of a file; any other array, a part of a map among them, as it is."""
        whole = isinstance(level, np.memmap) and isinstance(level.base, mmap.mmap) and level.flags.c_contiguous
        if not whole or level.mode == "c" or level.filename is None:  # "c": changes are in memory only
            return level
        return cls(os.path.abspath(level.filename), level.dtype, level.offset, level.shape)

    def open(self) -> np.memmap:
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)


@dataclass
class _Opened:
    """The levels of an image file, whether their channels come first, how it is closed, and what stands for tiles it lacks."""

    levels: list
    channels_first: bool
    close: Callable[[], object]
    absent: int = 0
    fill: float = 0
    bits: int | None = None  # of a value, where they do not fill its type
    turned: bool = False  # whether the file says that its rows are to be read otherwise


def _open(path: Path, missing: float | None = None) -> _Opened:
    if path.is_dir():
        return _zarr_levels(path)
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; expected an image file") from error
    try:
        return _tiff_levels(path, missing) if start in _TIFF else _slide_levels(path)
    except (DataError, ImportError):
        raise
    except Exception as error:  # each package has its own
        raise DataError(
            f"{path}: no readable image ({error}); expected TIFF, zarr, or a slide that OpenSlide knows; read_image reads "
            "photographs"
        ) from error


def _tiff_levels(path: Path, missing: float | None) -> _Opened:
    tifffile, zarr = _package("tifffile"), _package("zarr")
    file = tifffile.TiffFile(path)
    try:
        # The largest: others are labels, overviews, …
        image = max(file.series, key=lambda series: series.keyframe.imagelength * series.keyframe.imagewidth)
        page = image.keyframe
        if "bif" in file.flags or page.compression.name == "APERIO_JP2000_YCBC":  # tiles that overlap; colours that stay YCbCr
            file.close()
            return _slide_levels(path)
        rgb_of = ("YCBCR",) if "JPEG" in page.compression.name else ()  # JPEG's own colours, which come decoded
        if page.photometric.name not in ("MINISBLACK", "RGB", *rgb_of):
            raise DataError(f"{path}: colours of the kind {page.photometric.name}: convert the file to RGB or grey")
        arrays = [zarr.open(image.aszarr(level=level, fillvalue=missing), mode="r") for level in range(len(image.levels))]
        planes = [_Plane(array, level.axes) for array, level in zip(arrays, image.levels, strict=True)]
    except Exception:
        file.close()
        raise
    absent = sum(count == 0 for level in image.levels for count in level.keyframe.databytecounts)
    bits = page.bitspersample if page.bitspersample not in (1, 8 * page.dtype.itemsize) else None
    turned = "Orientation" in page.tags and page.tags["Orientation"].value != 1
    fill = float(page.nodata if missing is None else missing)
    return _Opened(planes, planes[0].channels_first, file.close, absent, fill, bits, turned)


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
        others = [(axis, side) for axis, side in zip(axes, array.shape, strict=True) if axis not in kept and side > 1]
        if others:
            lost = " and ".join(f"the first of {side} along {axis}" for axis, side in others)
            warn(
                f"an array of axes {axes} and shape {tuple(array.shape)}: {lost} is taken; for bands as channels open it with "
                "tifffile or zarr, and give ImagePyramid([array], channels_first=…) the array"
            )
        self._array, self._kept = array, [axis in kept for axis in axes]
        self.shape = tuple(side for side, keep in zip(array.shape, self._kept, strict=True) if keep)
        self.dtype = array.dtype
        self.channels_first = kept[0] == channel
        chunks = getattr(array, "chunks", None)
        self.chunks = chunks and tuple(side for side, keep in zip(chunks, self._kept, strict=True) if keep)

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
        self.chunks = (
            *(int(slide.properties.get(f"openslide.level[{level}].tile-{side}", 256)) for side in ("height", "width")),
            3,
        )
        colour = slide.properties.get("openslide.background-color", "ffffff")
        self._background = np.array([int(colour[k : k + 2], 16) for k in (0, 2, 4)], np.uint16)

    def __getitem__(self, slices: tuple[slice, slice]) -> np.ndarray:
        scale = self._slide.level_downsamples[self._level]
        (top, above), (left, before) = (_whole_place(part.start, scale) for part in slices)
        height, width = (part.stop - part.start for part in slices)
        region = self._slide.read_region((left, top), self._level, (before + width, above + height))
        pixels = np.asarray(region)[above:, before:].astype(np.uint16)  # (h, w, RGBA)
        opaque = pixels[..., 3:]
        return ((pixels[..., :3] * opaque + self._background * (255 - opaque) + 127) // 255).astype(np.uint8)


def _whole_place(start: int, scale: float) -> tuple[int, int]:
    """Where to read from, in pixels of the finest level, and how many pixels of this level to drop then.

    OpenSlide takes places in whole pixels of the finest level; between them it would blend neighbours. So it is read from a
    place a little before, that is whole.
    """
    near = range(start, max(-1, start - 64), -1)
    first = min(near, key=lambda k: round(abs(k * scale - round(k * scale)), 3))
    return round(first * scale), start - first


def _package(name: str) -> ModuleType:
    try:
        return needed(name)
    except ImportError as error:
        raise ImportError(f"this kind of image needs {name}: pip install 'atslib[slides]'") from error
