"""Images of different sizes in one batch: each is continued at the right and below, up to one size."""

from __future__ import annotations

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from atslib.data.files import ImageFiles, image_size
from atslib.loading import LabelledImages
from atslib.patches import check_fill, pair


class Padded(LabelledImages):
    """The images of a set, each continued at the right and below up to one size, so that they can share a batch.

    A border of one colour has an edge, edges stand out, and attention looks at what stands out. So images are continued by their
    mirror image unless a colour is named. Then what lies near that border is there twice: where things are to be counted, name
    the colour of the ground.

    Args:
        dataset: images ``(C, h, w)`` of any sizes up to ``size``, with labels.
        size: height and width of all images, in pixels; one number for a square. :func:`largest_size` gives those of the largest.
        fill: ``"mirror"``, or the value of the new pixels, in the image's own range.

    Items are ``(image, label)``: the image ``(C, *size)``, of its type; the label as it was.

    Raises:
        ValueError: another ``fill``; when it is asked for, an image that is larger than ``size``, or without pixels.

    >>> from atslib.data import GeneratedHistology
    >>> image, label = Padded(GeneratedHistology("test", 1, size=128), (140, 160))[0]
    >>> image.shape
    torch.Size([3, 140, 160])
    """

    def __init__(self, dataset: LabelledImages, size: int | tuple[int, int], *, fill: str | float = "mirror"):
        self.dataset, self.size, self.fill = dataset, pair(size), fill
        if isinstance(fill, str) and fill != "mirror":
            raise ValueError(f"fill={fill!r}: expected 'mirror' or a number")
        self.labels, self.classes = dataset.labels, dataset.classes

    def __getitem__(self, number: int) -> tuple[Shaped[Tensor, "C H W"], object]:
        image, label = self.dataset[number]
        if not image.numel() or any(have > want for have, want in zip(image.shape[1:], self.size, strict=True)):
            raise ValueError(f"image {number} of {tuple(image.shape[1:])} pixels: expected some, and no more than {self.size}")
        if self.fill == "mirror":
            rows, columns = (_mirrored(have, want, image.device) for have, want in zip(image.shape[1:], self.size, strict=True))
            return image[:, rows[:, None], columns], label
        check_fill(image.dtype, self.fill)
        padded = image.new_full((len(image), *self.size), self.fill)
        padded[:, : image.shape[1], : image.shape[2]] = image
        return padded, label

    def digest(self) -> str:
        """That of the set, with size and fill; for records of runs."""
        return f"{self.dataset.digest()}-padded{self.size[0]}x{self.size[1]}-{self.fill}"


def _mirrored(have: int, want: int, device: torch.device) -> Int[Tensor, " want"]:
    """0 1 … have-1 have-1 … 1 0 0 1 …: which row or column stands where, ``want`` in all."""
    place = torch.arange(want, device=device) % (2 * have)
    return torch.minimum(place, 2 * have - 1 - place)


def largest_size(*datasets: LabelledImages) -> tuple[int, int]:
    """Height of the highest and width of the widest image of some sets, for :class:`Padded`.

    Of image files from their headers; other sets, and files with a ``read`` of their own, are read whole.

    Raises:
        ValueError: no images.
        DataError: a file that is no image.

    >>> from atslib.data import GeneratedHistology
    >>> largest_size(GeneratedHistology("train", 2, size=128), GeneratedHistology("test", 1, size=150))
    (150, 150)
    """
    sizes = [size for dataset in datasets for size in _sizes(dataset)]
    if not sizes:
        raise ValueError("no images: expected some, to find the largest")
    return max(height for height, _ in sizes), max(width for _, width in sizes)


def _sizes(dataset: LabelledImages) -> list[tuple[int, int]]:
    plain = isinstance(dataset, ImageFiles) and type(dataset).__getitem__ is ImageFiles.__getitem__ and dataset.read is None
    if plain:
        return [image_size(path, dataset.get) for path in dataset.files]
    return [tuple(dataset[number][0].shape[1:]) for number in range(len(dataset))]
