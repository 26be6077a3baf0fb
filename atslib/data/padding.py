"""Images of different sizes in one batch: each is continued at the right and below, up to one size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.utils.data import Subset

from atslib.data.files import ImageFiles, image_size
from atslib.loading import LabelledImages, digest_of, known_classes, known_labels, part_of
from atslib.patches import check_fill, pair


class Padded(LabelledImages):
    """The images of a set, each continued at the right and below up to one size, so that they can share a batch.

    A border of one colour has an edge, edges stand out, and attention looks at what stands out. So images are continued by their
    mirror image unless a colour is named. Then what lies near that border is there twice: where things are to be counted, name
    the colour of the ground.

    Args:
        dataset: images ``(C, h, w)`` of any sizes up to ``size``, with labels: :class:`LabelledImages`, a ``Subset`` of some, or
            a set of your own with an attribute ``labels``, one for each image.
        size: height and width of all images, in pixels; one number for a square. :func:`largest_size` gives those of the largest.
        fill: ``"mirror"``, or the value of the new pixels, in the image's own range.

    Items are ``(image, label)``: the image ``(C, *size)``, of its type; the label as it was.

    Raises:
        TypeError: a set that does not say its labels.
        ValueError: another ``fill``; when it is asked for, an image that is no tensor, is larger than ``size``, or has no pixels.

    >>> from atslib.data import GeneratedHistology
    >>> image, label = Padded(GeneratedHistology("test", 1, size=128), (140, 160))[0]
    >>> image.shape
    torch.Size([3, 140, 160])
    """

    def __init__(self, dataset: LabelledImages | Subset, size: int | tuple[int, int], *, fill: str | float = "mirror"):
        self.dataset, self.size, self.fill = dataset, pair(size), fill
        if isinstance(fill, str) and fill != "mirror":
            raise ValueError(f"fill={fill!r}: expected 'mirror' or a number")
        if (labels := known_labels(dataset)) is None:
            raise TypeError(
                f"a set of type {type(dataset).__name__} without labels: expected LabelledImages, a Subset of some, or any set "
                "with an attribute labels, one for each image"
            )
        self.labels, self.classes = labels, tuple(known_classes(dataset))

    def __getitem__(self, number: int) -> tuple[Shaped[Tensor, "C H W"], object]:
        image, label = self.dataset[number]
        if not isinstance(image, Tensor) or image.ndim != 3:
            said = f"shape {tuple(image.shape)}" if isinstance(image, Tensor) else f"type {type(image).__name__}"
            raise ValueError(f"image {number} of {said}: expected a tensor (C, H, W)")
        lacking = [want - have for have, want in zip(image.shape[1:], self.size, strict=True)]
        if not image.numel() or min(lacking) < 0:
            raise ValueError(f"image {number} of {tuple(image.shape[1:])} pixels: expected some, and no more than {self.size}")
        if not any(lacking):
            return image, label
        if self.fill == "mirror":  # PyTorch's own takes no whole numbers, and NumPy no bfloat16
            pixels = image.view(torch.int16) if image.dtype == torch.bfloat16 else image
            continued = np.pad(pixels.numpy(), [(0, 0), *((0, more) for more in lacking)], mode="symmetric")
            return torch.from_numpy(continued).view(image.dtype), label
        check_fill(image.dtype, self.fill)
        padded = image.new_full((len(image), *self.size), self.fill)
        padded[:, : image.shape[1], : image.shape[2]] = image
        return padded, label

    def digest(self) -> str:
        """That of the set, with size and fill; for records of runs.

        Raises:
            AttributeError: the set has none.
        """
        return f"{digest_of(self.dataset)}-padded{self.size[0]}x{self.size[1]}-{self.fill}"


def largest_size(*datasets: LabelledImages | Subset) -> tuple[int, int]:
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


def _sizes(dataset: LabelledImages | Subset, numbers: Sequence[int] | None = None) -> list[tuple[int, int]]:
    """Of the images of these numbers; of all if there are none."""
    numbers = range(len(dataset)) if numbers is None else numbers
    if (inner := part_of(dataset)) is not None:
        return _sizes(inner[0], [inner[1][number] for number in numbers])
    plain = isinstance(dataset, ImageFiles) and type(dataset).__getitem__ is ImageFiles.__getitem__ and dataset.read is None
    if plain:
        return [image_size(dataset.files[number], dataset.get) for number in numbers]
    return [tuple(dataset[number][0].shape[-2:]) for number in numbers]  # of what lies in files, (1, C, H, W)
