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
import threading
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from numbers import Integral
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from atslib.data.files import DataError, keep, mapped, needed, place_in
from atslib.patches import ImageSource, check_aspect, covered, overlaps
from atslib.warned import warn

try:
    import resource
except ImportError:  # Windows
    resource = None

# Pixel values that are read at a time for a view, if one pixel of it does not need more: some ten megabytes in floating point.
_BLOCK = 1 << 22
_MOST_OPEN = 256  # image files at a time, of a process
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the first bytes: little and big endian, of 32 and of 64 bits


class ImagePyramid(ImageSource):
    """One image at one or several resolutions, of which only what is looked at is read.

    Patches are those of the tensor with the same pixels. A view is the mean of each of its pixels' area, taken over the coarsest
    level that has its size (less one pixel, since scanners round down), and so as good as that level: of a level made by leaving
    out pixels, not the mean of the image. With the finest level alone it is the mean over all pixels, and reads them all. The
    last view is kept, so that a second look at the same image costs its patches only.

    Pixels are read where the model runs. In a data set read by workers, a worker that calls ``downsample(pyramid, size)`` first
    sends the view along; patches are read by the process that draws them. What is opened by :meth:`open`, or mapped into memory,
    is sent as its path, and zarr arrays in files are, too; other arrays are sent with their pixels. Those that cannot be, HDF5's
    among them, are for a data set without workers: one with workers raises a ValueError. A ``DataLoader`` of your own takes
    ``collate_fn=atslib.loading.collate``.

    Args:
        levels: a list of arrays from the finest to the coarsest, ``(H, W)`` or ``(H, W, C)``, NumPy arrays when sliced.
            Networks see the channels that are there: RGB of most slides, four of a file with transparency.
        channels_first: whether the arrays are ``(C, H, W)``, as tensors mostly are. Where the shape of the finest may be either,
            its last side more than 4 and more than its first, it has to be said.
        white: for whole numbers of other types than uint8: the value that networks see as 1 (65535, say, or 4095 of a camera
            with 12 bits). Patches and views are float32 then.

    Attributes:
        shape: ``(1, C, H, W)``.
        levels: the arrays, the finest first.

    Raises:
        ValueError: no level, or an array or a path in place of a list; arrays that may be ``(C, H, W)`` where nothing is said;
            levels that are no images, differ in type, channels or proportions, or do not shrink; a type whose range is not known.
    """

    def __init__(self, levels: Iterable, *, channels_first: bool | None = None, white: float | None = None):
        if hasattr(levels, "shape"):
            raise ValueError(f"levels of shape {tuple(levels.shape)}: expected a list of arrays, [array] for one")
        if isinstance(levels, str | os.PathLike):
            path = str(levels)
            raise ValueError(f"levels={path!r}: expected a list of arrays; ImagePyramid.open({path!r}) reads a file")
        levels = tuple(level.numpy() if isinstance(level, Tensor) else level for level in levels)
        if not levels:
            raise ValueError("an image of 0 levels: expected at least one, the image itself")
        if channels_first is None:
            shape = tuple(levels[0].shape)
            if len(shape) == 3 and shape[2] > max(4, shape[0]):
                raise ValueError(
                    f"a level of shape {shape}: (C, H, W), or {shape[2]} channels? expected channels_first=True or False"
                )
            channels_first = False
        self.levels, self._channels_first, self.white = levels, channels_first, white
        self._view: Tensor | None = None  # the last one, (C, h, w)
        self._cache: Path | None = None
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
        finest: int = 0,
        levels: int | None = None,
        white: float | None = None,
        missing: float | None = None,
        cache: str | os.PathLike | None = None,
    ) -> ImagePyramid:
        """An image file: TIFF, best tiled, with its levels if it has some; a zarr array or OME-Zarr image; any whole slide that
        OpenSlide knows (MRXS, DICOM, …).

        Of several images in a file the largest is taken, of further axes (time, depth) the first position. Headers are read now,
        pixels when they are looked at. A process that did not open the file opens it for itself, so that pyramids may be items
        of a data set, and any number of them: the files looked at last stay open, 256 at most and half of those that the system
        lets a process have. A file that is not tiled works too, but each look reads whole strips of it, or all.

        Slides scanned at 40× and at 20× are looked at on one scale where those at 40× begin at the level of half their size: with
        ``finest=1`` if that is the next one, as the sizes in ``repr(pyramid)`` tell (of many scanners the next has a quarter, and
        there is none of half). A patch of p pixels a side then covers what one of 2p covers at 40×; ``shape``, places and the
        view's ``scale`` are of this level, too.

        Args:
            path: of the file or zarr folder.
            finest: number of the level that is the image, 0 for the file's finest; those above it are not read.
            levels: how many of the file's levels to use, from ``finest`` on; all unless given. With 1, views are made from all
                pixels.
            white: as above.
            missing: the value, in the file's own range, of tiles that a TIFF leaves out, often what was not scanned: 255 where
                the ground is white. Unless given it is the file's own word for that, or 0, and there is a warning; a prior
                that looks for what is dark would look there.
            cache: a folder for views, written on first use and read from then on, also by workers and later runs: for files whose
                coarsest level is large. A view takes four bytes a value. One of a file that has changed is made anew.

        Raises:
            DataError: a file that is missing, damaged, of a kind that nothing installed reads, or without the level ``finest``;
                colours that are no RGB.
            ImportError: the package that reads this kind is missing: ``pip install 'atslib[slides]'``.
            ValueError: as above; ``finest`` or ``levels`` that count no levels.
        """
        if levels is not None and not (isinstance(levels, Integral) and levels >= 1):
            raise ValueError(f"levels={levels}: expected a whole number, at least 1, the finest")
        if not (isinstance(finest, Integral) and finest >= 0):
            raise ValueError(f"finest={finest}: expected a whole number, 0 for the file's finest level")
        path = Path(path).expanduser().absolute()
        file = _File(path, missing)
        opened = file.opened()
        try:
            if finest >= (count := len(opened.levels)):
                only = "1 level: expected 0" if count == 1 else f"{count} levels: expected 0 to {count - 1}"
                raise DataError(f"{path}: finest={finest} of {only}, the number of the finest level to use")
            taken = list(enumerate(opened.levels))[finest:][:levels]
            if missing is None and (absent := sum(opened.absent[number] for number, _ in taken)):
                warn(
                    f"{path}: {absent} tiles are not in the file and are read as {opened.fill:g}; name what stands for them, "
                    "missing=255 for white"
                )
            if opened.turned:
                warn(f"{path}: the file's orientation is not applied; rows and columns are as they are stored")
            for lost in (level.lost for _, level in taken if level.lost):
                warn(lost)
            if opened.bits and white is None:
                most = 2**opened.bits - 1
                raise ValueError(f"{path}: values of {opened.bits} bits: expected white={most}, what networks see as 1")
            found = [_FileLevel(file, number, level) for number, level in taken]
            pyramid = cls(found, channels_first=opened.channels_first, white=white)
        except Exception:  # a warning may be one
            file.close()
            raise
        pyramid._cache = None if cache is None else Path(cache).expanduser().absolute()
        return pyramid

    def close(self) -> None:
        """Close the file until it is looked at again, and forget the view: those of a thousand slides take memory."""
        self._view = None
        for level in self.levels:
            if isinstance(level, _FileLevel):
                level.file.close()

    def read_patches(self, top_left: Int[Tensor, "1 N 2"], size: tuple[int, int], fill: float) -> Shaped[Tensor, "1 N C h w"]:
        _, channels, height, width = self.shape
        corners, which = top_left[0].unique(dim=0, return_inverse=True)  # attention likes to look again where it has looked
        patches = torch.full((len(corners), *size, channels), fill, dtype=self.dtype, device="cpu")
        for patch, (top, left) in zip(patches, corners.tolist(), strict=True):
            rows, columns = _inside(top, size[0], height), _inside(left, size[1], width)
            if rows.start < rows.stop and columns.start < columns.stop:
                there = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
                patch[there] = self._read(0, rows, columns)
        return patches[which][None].permute(0, 1, 4, 2, 3)  # channels last in memory, as convolutions like it

    def read_view(self, size: tuple[int, int]) -> Float[Tensor, "1 C h w"]:
        if self._view is None or tuple(self._view.shape[1:]) != tuple(size):
            fine_enough = [k for k, (_, *sides) in enumerate(self._shapes) if sides[0] >= size[0] - 1 and sides[1] >= size[1] - 1]
            self._view = self._cached_view(fine_enough[-1], size)
        return self._view[None].clone()  # what a network does in place must not change it

    def _cached_view(self, level: int, size: tuple[int, int]) -> Float[Tensor, "C h w"]:
        if self._cache is None:
            return self._make_view(level, size)
        array = self.levels[level]
        # All that the view is a function of.
        place = place_in(self._cache, array.file.path, "view", *size, array.number, self.white, array.file.missing)
        if (view := mapped(place)) is not None and view.shape == (self.shape[1], *size):
            return view.clone()  # a map cannot be sent to another process
        view = self._make_view(level, size)
        keep(place, view.numpy())
        return view

    def _make_view(self, level: int, size: tuple[int, int]) -> Float[Tensor, "C h w"]:
        tile = _tile(self.levels[level], self._channels_first)
        means = _means(partial(self._read, level), self._shapes[level], size, *tile)
        return means.div_(255) if self.dtype == torch.uint8 else means.to(self.dtype)

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
            path = _path_of(array)
            if "imagecodecs" in str(error):
                raise ImportError(f"{path}: this compression needs imagecodecs: pip install 'atslib[slides]'") from error
            if path is None or isinstance(error, MemoryError | DataError | ImportError):
                raise
            raise DataError(
                f"{path}: rows {rows.start} to {rows.stop}, columns {columns.start} to {columns.stop} cannot be read "
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
        return _restored, (type(self), self.__dict__ | dict(levels=tuple(map(_Mapped.of, self.levels))))

    def __repr__(self) -> str:
        sizes = ", ".join(f"{height} × {width}" for _, height, width in self._shapes)
        where = f"{path}: " if (path := _path_of(self.levels[0])) else ""
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


def _restored(kind: type, state: dict) -> ImagePyramid:
    levels = tuple(level.open() if isinstance(level, _Mapped) else level for level in state["levels"])
    pyramid = kind.__new__(kind)
    pyramid.__dict__.update(state | dict(levels=levels))
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


class _File:
    """An image file that each process opens for itself when it is looked at; goes to another process as its path."""

    def __init__(self, path: Path, missing: float | None):
        self.path, self.missing = path, missing
        self._opened: _Opened | None = None

    def opened(self) -> _Opened:
        """The open file, for as long as what is returned is held: others may be opened meanwhile, and this one let go."""
        opened = self._opened
        if opened is None or opened.process != os.getpid():  # two processes would share one position in the file
            self._opened = opened = _open(self.path, self.missing)
        with _letting_go:
            _open_files.pop(self, None)
            _open_files[self] = None
            while len(_open_files) > _most_open() and (oldest := next(iter(_open_files), self)) is not self:
                oldest._opened = None
                del _open_files[oldest]
        return opened

    def close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()
        with _letting_go:
            _open_files.pop(self, None)

    def __reduce__(self):
        return type(self), (self.path, self.missing)


_open_files: weakref.WeakKeyDictionary[_File, None] = weakref.WeakKeyDictionary()  # the one looked at last comes last
_letting_go = threading.RLock()  # a garbage collection may close another pyramid meanwhile
if hasattr(os, "register_at_fork"):  # no worker is to begin with a lock that nobody opens
    os.register_at_fork(before=_letting_go.acquire, after_in_parent=_letting_go.release, after_in_child=_letting_go.release)


def _most_open() -> int:
    """How many image files a process keeps open: it needs others, too, and each takes memory."""
    if resource is None or (allowed := resource.getrlimit(resource.RLIMIT_NOFILE)[0]) == resource.RLIM_INFINITY:
        return _MOST_OPEN
    return min(_MOST_OPEN, max(1, allowed // 2))


class _FileLevel:
    """One resolution of a file, an array that opens it when it is sliced."""

    def __init__(self, file: _File, number: int, level: _Plane | _SlideLevel):
        self.file, self.number = file, number
        self.shape, self.dtype, self.chunks = level.shape, level.dtype, level.chunks

    def __getitem__(self, slices: tuple[slice, ...]) -> np.ndarray:
        opened = self.file.opened()  # has a name, so that it stays open
        if len(opened.levels) <= self.number or opened.levels[self.number].shape != self.shape:
            raise DataError(f"{self.file.path}: not the image that it was when it was opened first; open it again")
        return opened.levels[self.number][slices]


def _path_of(level) -> Path | None:
    return level.file.path if isinstance(level, _FileLevel) else None


@dataclass
class _Opened:
    """The levels of an open file, whether their channels come first, what is to be said of it; closed once nobody holds it."""

    levels: list
    channels_first: bool
    close: Callable[[], object]
    absent: tuple[int, ...]  # tiles that are not in the file, by level
    fill: float = 0  # stands for those
    bits: int | None = None  # of a value, where they do not fill its type
    turned: bool = False  # whether the file says that its rows are to be read otherwise
    process: int = field(default_factory=os.getpid)

    def __post_init__(self):
        self.close = weakref.finalize(self, _close_in, self.process, self.close)


def _close_in(process: int, close: Callable[[], object]) -> None:
    """Close a file, if this is the process that has opened it."""
    if os.getpid() == process:
        close()


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
    absent = tuple(sum(count == 0 for count in level.keyframe.databytecounts) for level in image.levels)
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
    return _Opened(planes, planes[0].channels_first, lambda: None, (0,) * len(planes))


def _slide_levels(path: Path) -> _Opened:
    slide = _package("openslide").OpenSlide(path)
    levels = [_SlideLevel(slide, level) for level in range(slide.level_count)]
    return _Opened(levels, False, slide.close, (0,) * len(levels))


class _Plane:
    """An array with more axes than an image has, at the first position of those; by slices of the others, in their order."""

    def __init__(self, array, axes: str):
        channel = "S" if "S" in axes else "C"  # samples of a pixel, else an axis of planes
        kept = [axis for axis in axes if axis in ("Y", "X", channel)]
        if kept not in (["Y", "X"], ["Y", "X", channel], [channel, "Y", "X"]) or len(axes) != len(array.shape):
            raise ValueError(f"axes {axes} of shape {tuple(array.shape)}: expected Y, X, and channels before or after")
        others = [(axis, side) for axis, side in zip(axes, array.shape, strict=True) if axis not in kept and side > 1]
        self.lost = ""
        if others:
            first = " and ".join(f"the first of {side} along {axis}" for axis, side in others)
            self.lost = (
                f"an array of axes {axes} and shape {tuple(array.shape)}: {first} is taken; for bands as channels open it with "
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
    lost = ""

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
    place a little before, that is whole, or the nearest to it where no scale is: of a level with one like 4.0003 far from the
    slide's corner, what is read lies up to half a pixel of the finest level off, and neighbours are blended by that much.
    """
    near = range(start, max(-1, start - 64), -1)
    first = min(near, key=lambda k: round(abs(k * scale - round(k * scale)), 3))
    return round(first * scale), start - first


def _package(name: str) -> ModuleType:
    try:
        return needed(name)
    except ImportError as error:
        raise ImportError(f"this kind of image needs {name}: pip install 'atslib[slides]'") from error
