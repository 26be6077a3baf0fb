"""Looking at parts of a large image: a small view of all of it, and full-resolution patches of a few places.

:func:`downsample` makes the view :math:`V(x, s)` from which attention is computed (eq. 18), :class:`PatchGeometry` says
where in the image a location of the attention map lies, and :func:`extract_patches` reads the patches
:math:`P(x, i)` there (eq. 19). :func:`distinct_patches` tells which of them show the same. An image need not be a tensor: an
:class:`ImageSource` answers both functions itself.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

# Rows of the image are averaged in strips of about this many values, so that a view of a huge uint8 image needs no
# floating-point copy of it, and no more memory than the networks that follow.
_STRIP = 1 << 20
_STRIP_ON_GPU = 1 << 24  # where each strip costs the host several launches, too
# Fine pixels after which the weights of an average may repeat and still be laid out as one matrix.
_LONG = 512


class ImageSource(ABC):
    """Images that are no tensor, of which only what is looked at is read: :class:`atslib.data.ImagePyramid` has those in files.

    Models, :func:`extract_patches` and :func:`downsample` take one wherever they take a tensor ``(B, C, H, W)``.

    Attributes:
        shape: ``(B, C, H, W)``, as of a tensor.
        dtype: what the patches come in, uint8 or floating point.
    """

    shape: torch.Size
    dtype: torch.dtype
    ndim = 4
    device = torch.device("cpu")

    @abstractmethod
    def read_patches(self, top_left: Int[Tensor, "B N 2"], size: tuple[int, int], fill: float) -> Shaped[Tensor, "B N C h w"]:
        """As :func:`extract_patches`, which has checked the arguments; everything on the CPU."""

    @abstractmethod
    def read_view(self, size: tuple[int, int]) -> Float[Tensor, "B C h w"]:
        """As :func:`downsample`, which has checked the size: uint8 as [0, 1]; on the CPU, the caller's own."""

    def __len__(self) -> int:
        return self.shape[0]

    def is_floating_point(self) -> bool:
        return self.dtype.is_floating_point

    def to(self, *args, **kwargs) -> ImageSource:
        """The source itself: the pixels stay where they are, and what is read of them goes where it is needed."""
        return self


class ImageBatch(ImageSource):
    """Several images of one size that are no tensors, as one batch.

    Raises:
        ValueError: no image, or a tensor; images that differ in channels, size or type.
    """

    def __init__(self, images: Sequence[ImageSource]):
        self.images = tuple(images)
        if not self.images:
            raise ValueError("a batch of 0 images: expected at least 1")
        if other := [type(image).__name__ for image in self.images if not isinstance(image, ImageSource)]:
            raise ValueError(f"an image of type {other[0]} in a batch of sources: torch.stack makes a batch of tensors")
        kinds = {(tuple(image.shape[1:]), image.dtype) for image in self.images}
        if len(kinds) > 1:
            raise ValueError(f"images of different kinds in a batch, {' and '.join(map(str, kinds))}: take batches of one image")
        self.shape = torch.Size((sum(map(len, self.images)), *self.images[0].shape[1:]))
        self.dtype = self.images[0].dtype

    def read_patches(self, top_left: Int[Tensor, "B N 2"], size: tuple[int, int], fill: float) -> Shaped[Tensor, "B N C h w"]:
        parts = top_left.split([len(image) for image in self.images])
        return torch.cat([image.read_patches(part, size, fill) for image, part in zip(self.images, parts, strict=True)])

    def read_view(self, size: tuple[int, int]) -> Float[Tensor, "B C h w"]:
        views = [image.read_view(size) for image in self.images]
        return views[0] if len(views) == 1 else torch.cat(views)


def extract_patches(
    image: Shaped[Tensor, "B C H W"] | ImageSource,
    top_left: Int[Tensor, "B N 2"],
    size: int | Sequence[int],
    *,
    fill: float = 0,
) -> Shaped[Tensor, "B N C h w"]:
    """Read N patches of each image.

    Coordinates beyond the border are clamped for reading and what they read is masked: the image is never padded or
    copied, nothing loops over patches, and with both on a GPU nothing waits for the host. Differentiable in ``image``.

    Args:
        image: a tensor of any type but float8, which the patches keep, or a source.
        top_left: row and column of each patch's first pixel; anywhere, also outside the image. The patches come to its device:
            an image too large for a GPU stays in the computer's memory, or in a file mapped into it.
        size: height and width of the patches in pixels, one number for a square.
        fill: value of pixels outside the image.

    Raises:
        ValueError: ranks, types or batch sizes that do not fit, a patch larger than the image, or a fill that an image of whole
            numbers cannot hold.

    >>> image = torch.arange(16).view(1, 1, 4, 4)
    >>> extract_patches(image, torch.tensor([[[1, 2], [3, 3]]]), 2)[0, :, 0].tolist()
    [[[6, 7], [10, 11]], [[15, 0], [0, 0]]]
    """
    height, width = pair(size)
    _check_image_type(image)
    if image.ndim != 4:
        raise ValueError(f"image of shape {tuple(image.shape)}: expected rank 4, (B, C, H, W); add the axes it lacks")
    if top_left.ndim != 3 or top_left.shape[2] != 2 or len(top_left) != len(image):
        raise ValueError(f"top_left of shape {tuple(top_left.shape)}: expected (B, N, 2) with the image's batch B = {len(image)}")
    _check_patch_fits((height, width), image.shape[2:])
    if top_left.is_floating_point():
        raise ValueError(f"top_left of type {top_left.dtype}: expected whole numbers, as PatchGeometry.top_left gives")
    check_fill(image.dtype, fill)
    home, top_left = top_left.device, top_left.to(image.device)
    if isinstance(image, ImageSource):
        return image.read_patches(top_left, (height, width), fill).to(home)
    rows = top_left[..., 0, None] + torch.arange(height, device=image.device)  # (B, N, h)
    columns = top_left[..., 1, None] + torch.arange(width, device=image.device)  # (B, N, w)
    inside_rows, inside_columns = (rows >= 0) & (rows < image.shape[2]), (columns >= 0) & (columns < image.shape[3])
    inside = inside_rows[..., :, None] & inside_columns[..., None, :]  # (B, N, h, w)
    batch = torch.arange(len(image), device=image.device)[:, None, None, None]
    patches = image.permute(0, 2, 3, 1)[
        batch,
        rows.clamp(0, image.shape[2] - 1)[..., :, None],
        columns.clamp(0, image.shape[3] - 1)[..., None, :],
    ]  # (B, N, h, w, C)
    _fill_(patches, ~inside[..., None], fill)  # in place: indexing has made a copy
    return patches.to(home).permute(0, 1, 4, 2, 3)  # channels last in memory, as convolutions like it


def distinct_patches(patches: Shaped[Tensor, "M C h w"]) -> tuple[Int[Tensor, " U"], Int[Tensor, " M"]]:
    """Which patches differ: so that what is asked of each has to be worked out once for those that are equal.

    Sharp attention draws the same location again and again, and empty ground looks the same everywhere.

    Args:
        patches: any dtype; compared bit by bit.

    Returns:
        ``first``, the positions of the distinct patches, each where it appears first; and ``which`` of these each patch is equal
        to: ``patches[first][which]`` are the patches.

    Raises:
        ValueError: patches that are not of rank 4: those of several images, ``(B, N, C, h, w)``, want ``flatten(0, 1)``.

    >>> patches = torch.tensor([3, 1, 3, 2]).view(4, 1, 1, 1)
    >>> distinct_patches(patches)
    (tensor([0, 1, 3]), tensor([0, 1, 0, 2]))
    """
    if patches.ndim != 4:
        raise ValueError(f"patches of shape {tuple(patches.shape)}: expected rank 4, (M, C, h, w)")
    rows = patches.permute(0, 2, 3, 1).flatten(1).contiguous().view(torch.uint8)  # no copy where the channels lie last
    rows = F.pad(rows, (0, -rows.shape[1] % 8)).view(torch.int64)  # eight bytes are compared as quickly as one
    which = rows.unique(dim=0, return_inverse=True)[1]
    everyone = torch.arange(len(patches), device=patches.device)
    first = torch.full_like(everyone, len(patches)).scatter_reduce(0, which, everyone, "amin")
    first, order = first[first < len(patches)].sort()
    return first, order.argsort()[which]


@dataclass(frozen=True)
class PatchGeometry:
    """From a location of the attention map to a patch of the image.

    The attention network sees the low-resolution view (``low_size``) through convolutions of overall ``stride``,
    ``padding`` and ``receptive_field`` (view pixels), and returns a map (``map_size``). Cell r of the map looks at the view
    around :math:`r \\cdot \\mathrm{stride} - \\mathrm{padding} + \\mathrm{receptive\\_field}/2`, measured in pixel edges: a
    pixel covers [0, 1], its middle is 0.5. In the image that centre is :math:`H / h_\\mathrm{low}` times as far down, and
    the patch is laid around it, to the nearest whole pixel.

    Args:
        image_size, low_size, map_size: (height, width) of image, view and attention map.
        patch_size: of the patch, in image pixels; one number for a square.
        stride, padding, receptive_field: of the attention network, in view pixels; the same in both directions.

    Raises:
        ValueError: a patch larger than the image; a view of another aspect; a map that this network cannot have made, too large
            or too small (as when the stride was forgotten).

    >>> PatchGeometry((100, 100), (10, 10), (10, 10), patch_size=20).top_left(torch.tensor([[0, 99]])).tolist()
    [[[-5, -5], [85, 85]]]
    """

    image_size: tuple[int, int]
    low_size: tuple[int, int]
    map_size: tuple[int, int]
    patch_size: int | tuple[int, int]
    stride: int = 1
    padding: int = 0
    receptive_field: int = 1

    def __post_init__(self):
        _check_patch_fits(pair(self.patch_size), self.image_size)
        check_aspect(self.image_size, self.low_size)
        for low, cells in zip(self.low_size, self.map_size, strict=True):
            # There is a cell for every window that fits into the padded view; the last one may also hang over its end
            # (ceil_mode of a pooling).
            room = low + 2 * self.padding - self.receptive_field
            if not max(1, room // self.stride + 1) <= cells <= max(1, -(-room // self.stride) + 1):
                raise ValueError(
                    f"attention map of size {tuple(self.map_size)} from a view of {tuple(self.low_size)}: stride "
                    f"{self.stride}, padding {self.padding} and receptive field {self.receptive_field} cannot give it"
                )

    def centre(self, index: Int[Tensor, "B N"]) -> Float[Tensor, "B N 2"]:
        """Row and column of the locations' centres in the image, in pixel edges (float64)."""
        cells = self._cells(index).double()
        scale = torch.tensor([h / low for h, low in zip(self.image_size, self.low_size, strict=True)], dtype=torch.float64)
        return (cells * self.stride - self.padding + self.receptive_field / 2) * scale.to(index.device)

    def top_left(self, index: Int[Tensor, "B N"]) -> Int[Tensor, "B N 2"]:
        """Row and column of the first pixel of the patches around the locations; may lie outside the image."""
        axes = []
        for cell, image, low, patch in zip(
            self._cells(index).unbind(-1), self.image_size, self.low_size, pair(self.patch_size), strict=True
        ):
            # round(centre - patch/2) in whole numbers, halves up: exact for any size.
            twice_centre = (2 * (cell * self.stride - self.padding) + self.receptive_field) * image  # in view pixels
            axes.append((twice_centre - patch * low + low).div(2 * low, rounding_mode="floor"))
        return torch.stack(axes, dim=-1)

    def _cells(self, index: Tensor) -> Tensor:
        """Flat index to (row, column) of the map, in 64 bits: pixels of a large image times the view's do not fit into 32."""
        if index.is_floating_point():
            raise ValueError(f"index of type {index.dtype}: expected whole numbers, flat locations of the map")
        index, width = index.long(), self.map_size[1]
        return torch.stack([index.div(width, rounding_mode="floor"), index % width], dim=-1)  # (B, N, 2)


def downsample(image: Shaped[Tensor, "B C H W"] | ImageSource, size: int | Sequence[int]) -> Float[Tensor, "B C h w"]:
    """The image at a lower resolution, each pixel the exact mean of the area it covers.

    Source pixels that lie across a border count with the part that lies inside, so nothing is dropped and nothing
    counted twice, at any ratio: ``interpolate(mode="nearest")`` skips strokes, ``mode="area"`` lets windows overlap.
    Pixels are finite: one that is NaN may spread over the view.
    ``uint8`` is read as [0, 255] and returned as [0, 1]; other types keep their values.

    Args:
        image: the image; integer types other than ``uint8`` are not accepted, since their range is not known. A source may make
            its view from a coarser copy that it has (:class:`atslib.data.ImagePyramid`).
        size: height and width of the view, each at most the image's; one number for both.

    Returns:
        float32 (or the floating-point type of the image).

    >>> downsample(torch.tensor([[[[0.0, 3.0, 6.0]]]]), (1, 2)).tolist()  # 1.5 pixels each
    [[[[1.0, 5.0]]]]
    """
    _check_image_type(image)
    if image.ndim != 4:
        raise ValueError(f"image of shape {tuple(image.shape)}: expected rank 4, (B, C, H, W); add the axes it lacks")
    if not (image.is_floating_point() or image.dtype == torch.uint8):
        raise ValueError(f"image of type {image.dtype}: expected uint8 or floating point, whose range is known")
    size = pair(size)
    if not (1 <= size[0] <= image.shape[2] and 1 <= size[1] <= image.shape[3]):
        raise ValueError(f"view of size {tuple(size)} from an image of {tuple(image.shape[2:])}: expected 1 … the image's size")
    if isinstance(image, ImageSource):
        return image.read_view(size)
    batch, channels, height, width = image.shape
    dtype = image.dtype if image.is_floating_point() else torch.float32
    working = torch.promote_types(dtype, torch.float32)  # half precision would round the weights
    if image.is_cuda and _tensor_float_32():  # so would that
        working = torch.float64
    # Expanded, or channels last: image by image, or all of it would be copied.
    together = batch == 1 or channels == 1 or image.stride(0) == channels * image.stride(1)
    if not together and image.is_cuda and image.numel() <= _STRIP_ON_GPU:  # a small copy costs less than many small means
        image, together = image.contiguous(), True
    planes = [image.reshape(batch * channels, height, width)] if together else list(image)
    blocks = _column_blocks(width, size[1], image.device, working)  # once for all strips
    views = []
    with torch.autocast(image.device.type, enabled=False):  # a mean of hundreds of pixels, in full precision
        for plane in planes:
            parts = []
            for rows in _row_means(plane, size[0], working):
                columns = _column_means(rows, *blocks)
                parts.append((columns / 255 if image.dtype == torch.uint8 else columns).to(dtype))
            views.append(torch.cat(parts, dim=1))
        return torch.cat(views).reshape(batch, channels, *size)


def _tensor_float_32() -> bool:
    """Whether matrix products on a GPU may round their factors to 10 bits; True where PyTorch does not tell."""
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # the caller has used the newer setting, torch.backends.cuda.matmul.fp32_precision
        return torch.backends.cuda.matmul.fp32_precision != "ieee"


def _row_means(image: Shaped[Tensor, "C H W"], coarse: int, dtype: torch.dtype) -> Iterator[Float[Tensor, "C q W"]]:
    """Means of rows, down to ``coarse`` of them, a few at a time: of a large image no copy in floating point is ever whole."""
    channels, fine, width = image.shape
    groups = math.gcd(fine, coarse)
    at_a_time = (_STRIP_ON_GPU if image.is_cuda else _STRIP) // max(1, channels * width)  # rows of the image
    if (p := fine // groups) <= _LONG:
        weights = _weights(p, coarse // groups, image.device, dtype)
        for strip in image.unflatten(1, (groups, p)).split(max(1, at_a_time // p), dim=1):
            yield (weights @ strip.to(dtype)).flatten(1, 2)  # (q, p) @ (C, strip, p, W) -> (C, strip · q, W)
    else:  # the weights repeat too rarely
        step = max(1, at_a_time * coarse // fine)
        for first in range(0, coarse, step):
            part = first, min(first + step, coarse)
            start, stop = covered(fine, coarse, *part)
            yield _weights(fine, coarse, image.device, dtype, *part) @ image[:, start:stop].to(dtype)


def _weights(
    fine: int, coarse: int, device: torch.device, dtype: torch.dtype, first: int = 0, last: int | None = None
) -> Float[Tensor, "q p"]:
    """:func:`overlaps` on the device; on a GPU it is kept, since to copy it there the host would wait for all work before."""
    return (_weights_on if device.type == "cuda" else _weights_on.__wrapped__)(fine, coarse, first, last, device, dtype)


@lru_cache(maxsize=256)  # pieces of some hundred kB, those of a large view of two sides one by one
def _weights_on(
    fine: int, coarse: int, first: int, last: int | None, device: torch.device, dtype: torch.dtype
) -> Float[Tensor, "q p"]:
    with torch.inference_mode(False):  # kept, so that it must not be a tensor that no training may use
        return overlaps(fine, coarse, first, last).to(device, dtype)


def _column_blocks(fine: int, coarse: int, device: torch.device, dtype: torch.dtype) -> tuple[int, list[tuple[int, int, Tensor]]]:
    """In how many groups of columns the weights repeat; and of a group, which go together (from, up to), with what weights."""
    groups = math.gcd(fine, coarse)
    if (p := fine // groups) <= _LONG:
        return groups, [(0, p, _weights(p, coarse // groups, device, dtype).T)]
    parts = [(first, min(first + 32, coarse)) for first in range(0, coarse, 32)]
    return 1, [(*covered(fine, coarse, *part), _weights(fine, coarse, device, dtype, *part).T) for part in parts]


def _column_means(rows: Float[Tensor, "C r W"], groups: int, blocks: list[tuple[int, int, Tensor]]) -> Float[Tensor, "C r q"]:
    """Means along the rows, of groups and blocks as :func:`_column_blocks` gives them."""
    rows = rows.unflatten(2, (groups, -1))  # (C, r, groups, p)
    return torch.cat([rows[..., start:stop] @ weights for start, stop, weights in blocks], dim=3).flatten(2)


def low_size(image_size: Sequence[int], scale: float) -> tuple[int, int]:
    """Height and width of the view at ``scale``, to the nearest pixel."""
    return tuple(max(1, math.floor(side * scale + 0.5)) for side in image_size)


def check_aspect(image_size: Sequence[int], view_size: Sequence[int]) -> None:
    """Raise a ValueError unless the view has the image's proportions, up to the rounding of its sides."""
    (height, width), (low_height, low_width) = image_size, view_size
    # Some one scale has to round to both sides of the view.
    lowest = max((low_height - 1) / height, (low_width - 1) / width)
    highest = min((low_height + 1) / height, (low_width + 1) / width)
    if lowest >= highest:
        raise ValueError(
            f"low-resolution view of size {tuple(view_size)} of an image of {tuple(image_size)}: the aspects differ; "
            f"expected {low_height} × {max(1, round(low_height * width / height))}, say"
        )


def covered(fine: int, coarse: int, first: int, last: int) -> tuple[int, int]:
    """The fine pixels, from … up to, that coarse pixels ``first`` up to ``last`` cover, if only in part."""
    return first * fine // coarse, -(-last * fine // coarse)


def overlaps(fine: int, coarse: int, first: int = 0, last: int | None = None) -> Float[Tensor, "q p"]:
    """Share of each fine pixel in the coarse pixels from ``first`` up to ``last`` (all), in those that they cover."""
    last = coarse if last is None else last
    start, stop = covered(fine, coarse, first, last)
    # In units of 1/coarse fine pixels all borders are whole numbers: fine pixel j covers [j, j + 1] · coarse, coarse pixel i
    # covers [i, i + 1] · fine.
    fine_edge = torch.arange(start, stop, device="cpu")[None] * coarse
    coarse_edge = torch.arange(first, last, device="cpu")[:, None] * fine
    overlap = torch.minimum(fine_edge + coarse, coarse_edge + fine) - torch.maximum(fine_edge, coarse_edge)
    return overlap.clamp(min=0).double() / fine


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of what is given as one number for both, of any integer type, or as the two.

    Raises:
        ValueError: anything else, or a side below 1.
    """
    sides = (size, size) if isinstance(size, Integral) else tuple(size) if isinstance(size, Iterable) else ()
    if len(sides) != 2 or not all(isinstance(side, Integral) and side >= 1 for side in sides):
        raise ValueError(f"size {size!r}: expected a whole number of pixels, at least 1, or two, height and width")
    return int(sides[0]), int(sides[1])


def check_fill(dtype: torch.dtype, fill: float) -> None:
    """Raise a ValueError unless an image of this type can hold the value."""
    floating = dtype.is_floating_point or dtype.is_complex
    if floating and not math.isfinite(fill):
        return
    if dtype == torch.bool:
        lowest, highest = 0, 1
    else:
        limits = torch.finfo(dtype) if floating else torch.iinfo(dtype)
        lowest, highest = limits.min, limits.max
    if not (lowest <= fill <= highest and (floating or fill == int(fill))):
        kind = "number" if floating else "whole number"
        raise ValueError(f"fill={fill} for a {str(dtype).removeprefix('torch.')} image: expected a {kind}, {lowest} … {highest}")


_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}  # by bytes


def _fill_(patches: Tensor, where: Tensor, fill: float) -> None:
    """``masked_fill_``, also of types for which PyTorch has none: unsigned whole numbers of 16 bits and more."""
    if patches.dtype in (torch.uint16, torch.uint32, torch.uint64):
        bits = _BITS[patches.element_size()]
        patches, fill = patches.view(bits), torch.tensor(int(fill), dtype=patches.dtype).view(bits).item()
    patches.masked_fill_(where, fill)


def _check_image_type(image: object) -> None:
    if not isinstance(image, Tensor | ImageSource):
        raise ValueError(f"image of type {type(image).__name__}: expected a tensor; torch.from_numpy makes one, of a memmap too")


def _check_patch_fits(patch: tuple[int, int], image: tuple[int, int]) -> None:
    if not (patch[0] <= image[0] and patch[1] <= image[1]):
        raise ValueError(
            f"patch of {patch[0]} × {patch[1]} pixels from an image of {image[0]} × {image[1]}: "
            "expected a patch no larger than the image"
        )
