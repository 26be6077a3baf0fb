"""Batches of images in a random order that any process can pick up at any step.

The order is a function of seed and epoch, the randomness of a step one of seed, epoch and step. A run that was stopped thus
needs no more than its position to go on as if nothing had happened.
"""

from __future__ import annotations

import atexit
import copy
import hashlib
import os
import random
import signal
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from types import SimpleNamespace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, default_collate, get_worker_info
from tqdm.auto import tqdm

from atslib.arguments import is_whole
from atslib.patches import ImageBatch, ImageSource
from atslib.warned import warn

_EXPECTED_LABEL = "expected a whole number, the position of the image's class"
_ANY_LABEL = "; with a loss of your own, numbers or arrays of one shape"
_PURPOSES = ("order", "draws", "augmentation", "workers", "split")


def seed_for(purpose: str, seed: int, *position: int) -> int:
    """A seed for one purpose at one position of a run, unrelated to those of other purposes and positions of the same length.

    >>> seed_for("order", 0, 1) != seed_for("order", 0, 2) != seed_for("draws", 0, 2)
    True
    """
    # SeedSequence is frozen for good (NumPy NEP 19); PyTorch's own generator on the CPU takes 32 bits.
    sequence = np.random.SeedSequence([_PURPOSES.index(purpose), seed, *position])
    return int(sequence.generate_state(1, np.uint32)[0])


def epoch_batches(
    n_images: int, batch_size: int, seed: int, epoch: int, labels: Int[Tensor, " n_images"] | None = None
) -> list[list[int]]:
    """The image numbers of each batch of an epoch; the last batch may be smaller.

    Args:
        labels: of the images. With them every class is shown as often as any other, in an epoch of ``n_images`` visits as
            without: images of a small class come several times, of a large one only some, others in other epochs.
    """
    shuffle = torch.Generator().manual_seed(seed_for("order", seed, epoch))
    order = torch.randperm(n_images, generator=shuffle, device="cpu")
    if labels is not None:
        order = _equal_shares(order, labels.cpu())[torch.randperm(n_images, generator=shuffle, device="cpu")]
    order = order.tolist()
    return [order[i : i + batch_size] for i in range(0, n_images, batch_size)]


def whole_micro_batch_size(size: int | None) -> int | None:
    """The size as a plain number. Raises a ValueError unless it is a whole number of at least 1, or None."""
    if size is not None and not (is_whole(size) and size >= 1):
        raise ValueError(f"micro_batch_size={size!r}: expected a whole number, at least 1, or None for the whole batch")
    return None if size is None else int(size)


def in_parts(rows: Sequence[int], size: int | None) -> list[Sequence[int]]:
    """The rows in parts of at most ``size``; None for one part.

    >>> in_parts([0, 2, 4], 2), in_parts([0, 2, 4], None)
    ([[0, 2], [4]], [[0, 2, 4]])
    """
    size = size or len(rows)
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def _equal_shares(order: Int[Tensor, " n"], labels: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """As many image numbers as there are, the classes in equal shares, each class in ``order`` and from its beginning again."""
    classes = labels.unique().tolist()
    # Whole visits; the classes that get one more than others change with the order.
    first = int(order[0])
    shares = [(len(order) + (place + first) % len(classes)) // len(classes) for place in range(len(classes))]
    parts = []
    for value, share in zip(classes, shares, strict=True):
        mine = order[labels[order] == value]
        parts.append(mine.repeat(-(-share // len(mine)))[:share])
    return torch.cat(parts)


Items = Dataset | Sequence[tuple[Tensor | ImageSource, object]]  # a set, or a list of pairs (image, label)


class LabelledImages(Dataset):
    """Items ``(image, label)`` whose labels are known before any image is read or drawn.

    Subclasses have:
        classes: names of the classes; a label is a position in it.
        labels: label of every image, ``(N,)``, whole numbers: a tensor, an array or a list.
    """

    classes: tuple[str, ...]
    labels: Int[Tensor, " N"] | Int[np.ndarray, " N"] | Sequence[int]

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[tuple[Shaped[Tensor, "C H W"] | ImageSource, int | Tensor]]:
        return (self[number] for number in range(len(self)))

    def class_counts(self) -> Int[Tensor, " classes"]:
        """How many images each class has. Raises a ValueError for labels that are not one class an image."""
        return torch.bincount(_of_classes(self), minlength=len(self.classes))

    def class_weights(self) -> Float[Tensor, " classes"]:
        """Weights for the cross-entropy, the inverse of each class's share (§4.4), with mean 1 over the images.

        A class without images has weight 0.
        """
        counts = self.class_counts().double()
        present = counts > 0
        return torch.where(present, len(self) / (present.sum() * counts.clamp(min=1)), 0.0).float()

    def part(self, numbers: Sequence[int]) -> LabelledImages:
        """The images of these numbers, in their order: a ``Subset`` that knows labels and classes.

        Args:
            numbers: whole numbers, or yes or no for each image of the set, ``labels == 1``, say.

        Raises:
            ValueError: a number that no image has, or that is not whole; another count of yes and no than of images.
        """
        return _Part(self, numbers)

    def split(self, share: float, seed: int = 0) -> tuple[LabelledImages, LabelledImages]:
        """Two parts: the second has ``share`` of the images of each class, rounded, and the first the rest.

        Images of one patient, slide or place should not be in both: choose their numbers yourself, and use :meth:`part`.

        Args:
            share: in (0, 1), 0.2 for a fifth.
            seed: says which images.

        Raises:
            ValueError: another share, or one that leaves a part without images; labels that are not one class an image.
        """
        labels = _of_classes(self, "; of others choose the images yourself, with part(numbers)").cpu()
        if not 0 < share < 1:
            raise ValueError(f"share={share}: expected a number in (0, 1)")
        shuffle = torch.Generator().manual_seed(seed_for("split", seed))
        second = torch.zeros(len(self), dtype=torch.bool, device="cpu")
        for label in labels.unique():
            mine = (labels == label).nonzero()[:, 0]
            taken = round(share * len(mine))
            second[mine[torch.randperm(len(mine), generator=shuffle, device="cpu")[:taken]]] = True
            if taken in (0, len(mine)):
                name = self.classes[int(label)] if 0 <= label < len(self.classes) else int(label)
                warn(f"share={share} of class {name}, {len(mine)} image{'s' * (len(mine) > 1)}: one of the two parts has none")
        if second.all() or not second.any():
            raise ValueError(f"share={share} of {len(self)} images: one of the two parts would have none")
        return tuple(self.part(chosen.nonzero()[:, 0].tolist()) for chosen in (~second, second))


class _Part(LabelledImages):
    """Some images of a set with labels."""

    def __init__(self, whole: LabelledImages, numbers: Sequence[int] | Bool[Tensor, " N"]):
        chosen = numbers.cpu().numpy() if isinstance(numbers, Tensor) else np.asarray(list(numbers))
        if chosen.dtype == bool:
            if chosen.shape != (len(whole),):
                raise ValueError(f"yes or no of shape {chosen.shape}: expected one for each of {len(whole)} images")
            chosen = chosen.nonzero()[0]
        if chosen.ndim != 1 or chosen.dtype.kind not in "iuf":
            raise ValueError(f"numbers of shape {chosen.shape} and type {chosen.dtype}: expected whole numbers, (n,)")
        if (odd := chosen[chosen != np.floor(chosen)]).size:
            raise ValueError(f"image {odd[0]:g}: expected whole numbers")
        numbers = [int(number) for number in chosen]
        if wrong := [number for number in numbers if not 0 <= number < len(whole)]:
            raise ValueError(f"image {wrong[0]}: expected 0 to {len(whole) - 1}")
        self.whole, self.numbers = whole, numbers
        self.classes, self.labels = whole.classes, known_labels(whole)[torch.tensor(numbers, dtype=torch.long, device="cpu")]

    def __getitem__(self, number: int) -> tuple:
        return self.whole[self.numbers[number]]

    def __getattr__(self, name: str) -> object:
        """What sets know of their images beside the label, and a set may lack, by the part's own numbers."""
        if name in ("boxes", "layout", "signs"):
            known = getattr(self.whole, name)
            return lambda number: known(self.numbers[number])
        files = getattr(self.whole, "files", None) if name == "files" else None
        if isinstance(files, list | tuple) and len(files) == len(self.whole):  # one for each image
            return [files[number] for number in self.numbers]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def digest(self) -> str:
        """That of the set, and one of the numbers; for records of runs. Raises an AttributeError if the set has none."""
        return digest_of(self)


def _of_classes(dataset: Dataset, otherwise: str = "") -> Int[Tensor, " N"]:
    """The labels of a set in which each is a class."""
    labels = known_labels(dataset)
    check_classes(labels, otherwise)
    return labels.long()


def check_classes(labels: Shaped[Tensor, "N *target"], otherwise: str = "") -> None:
    """Raise a ValueError unless there is one class for each image; ``otherwise`` ends its message."""
    if labels.ndim != 1 or labels.is_floating_point():
        said = f"shape {tuple(labels.shape)} and type {labels.dtype}"
        raise ValueError(f"labels of {said}: expected the class of each image, (N,){otherwise}")


def digest_of(dataset: Dataset) -> str:
    """A short digest of a set's content, also of some images of it.

    Raises:
        AttributeError: the set has no method ``digest``.
    """
    if (inner := part_of(dataset)) is None:
        if not hasattr(dataset, "digest"):
            raise AttributeError(f"{type(dataset).__name__} has no digest, which those made of files have")
        return dataset.digest()
    numbers = str([int(number) for number in inner[1]])
    return f"{digest_of(inner[0])}-part{hashlib.sha256(numbers.encode()).hexdigest()[:8]}"


def known_labels(dataset: Dataset) -> Tensor | None:
    """The labels that a set, or the set that it is a ``Subset`` of, has as an attribute; None where there are none."""
    if isinstance(dataset, Subset):
        labels = known_labels(dataset.dataset)
        return None if labels is None else labels[_tensor(dataset.indices).long().to(labels.device)]
    labels = getattr(dataset, "labels", None)
    return None if labels is None else _tensor(labels)


def _tensor(numbers: object) -> Tensor:
    """A tensor of the numbers in a list, an array, or a column of a table."""
    if isinstance(numbers, Tensor | list | tuple):
        return torch.as_tensor(numbers)
    return from_array(np.array(numbers))  # pandas counts by its index, and lets nobody write into its arrays


def from_array(array: np.ndarray) -> Tensor:
    """A tensor in an array's memory, or in a copy of it if it is read-only, or lies in an order that PyTorch does not take."""
    array = np.require(array, array.dtype.newbyteorder("="), "C")  # of bytes, or backwards along an axis
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def known_classes(dataset: Dataset) -> Sequence[str]:
    """Names of the classes that a set, or the set that it is a ``Subset`` of, has as an attribute; empty where there are none."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    named = getattr(dataset, "classes", None)
    return named if isinstance(named, Sequence) else ()


class InMemory(LabelledImages):
    """A whole set of images of one size as one uint8 tensor, on any device: nothing is read or copied while training.

    Args:
        dataset: a set or list of items ``(image, label)``, images uint8 of one shape.
        device: where to; 5,000 images of 1500 × 1500 grey pixels take 11 GB.
        workers: processes that read or draw the images.
        any_label: labels may be numbers or arrays of one shape, for a loss of your own; ``labels`` then is ``(N, …)``, int64 if
            they are integers, else float32.

    ``classes`` are those of the set, or of the set that it is a ``Subset`` of; where none names them, the labels as words, and
    with ``any_label`` nothing.

    Raises:
        ValueError: images of more than one shape, or not uint8; a label that is no whole number, or with ``any_label`` of
            another shape than the first.
    """

    def __init__(
        self,
        dataset: Items,
        device: str | torch.device = "cpu",
        *,
        workers: int = 0,
        any_label: bool = False,
        progress: bool = False,
    ):
        if not len(dataset):
            raise ValueError("a data set of 0 images: expected at least 1")
        image, _ = _pair(dataset[0])
        if isinstance(image, ImageSource):
            raise ValueError("images that are read where they are looked at: expected tensors, to keep in memory")
        first = torch.as_tensor(image)
        self.images: UInt8[Tensor, "N C H W"] = torch.empty((len(dataset), *first.shape), dtype=torch.uint8, device=device)
        labels = []
        # A generator of its own, as in `Loader`: the global one is left alone.
        loader = DataLoader(dataset, batch_size=None, num_workers=workers, generator=torch.Generator(), collate_fn=_pair)
        for number, (image, label) in enumerate(tqdm(loader, desc="to memory", disable=not progress, unit="image", leave=False)):
            image = torch.as_tensor(image)
            if image.dtype != torch.uint8:
                raise ValueError(
                    f"image {number} is of type {image.dtype}: expected uint8, which takes a quarter of the memory; others are "
                    "read one by one"
                )
            if image.shape != first.shape:
                raise ValueError(
                    f"image {number} is {tuple(image.shape)}, image 0 {tuple(first.shape)}: expected one size (see "
                    "atslib.data.Padded, which wants an attribute labels of the set), or read them one by one"
                )
            self.images[number] = image
            if any_label:
                labels.append(_number(label))
                if labels[-1].shape != labels[0].shape:
                    raise ValueError(f"image {number} has the label {label!r}, image 0 {dataset[0][1]!r}: expected one shape")
                continue
            if np.ndim(label) or np.asarray(label).dtype.kind not in "iub":
                raise ValueError(f"image {number} has the label {label!r}: {_EXPECTED_LABEL}{_ANY_LABEL} (any_label=True)")
            labels.append(int(label))
        together = as_numbers(torch.stack(labels)) if any_label else torch.tensor(labels)
        self.labels: Shaped[Tensor, "N *target"] = together.to(device)
        unnamed = () if any_label else map(str, range(max(labels) + 1))
        self.classes = tuple(known_classes(dataset) or unnamed)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[UInt8[Tensor, "C H W"], int | Tensor]:
        label = self.labels[number]
        return self.images[number], label if label.ndim or label.is_floating_point() else int(label)

    def first(self, count: int) -> InMemory:
        """The first images, in the same memory."""
        part = copy.copy(self)
        part.images, part.labels = self.images[:count], self.labels[:count]
        return part


class Loader:
    """Batches of a set, read ahead by workers that stay until this is gone: where they are not forked, they take long to start.

    Args:
        dataset: items ``(image, label)``.
        device: where the batches are wanted.
        workers: processes that read images ahead.
        any_label: labels may be numbers or arrays of one shape; they come as int64 if they are integers, else as float32.

    Raises:
        ValueError: a set in memory whose labels are no classes, without ``any_label``.
    """

    def __init__(self, dataset: Dataset, device: str | torch.device, *, workers: int = 0, any_label: bool = False):
        device = torch.device(device)
        self.dataset, self.device = dataset, device
        self._in_memory, self._numbers = _in_memory(dataset)
        if self._in_memory is not None:
            labels = self._in_memory.labels
            if not any_label and (labels.ndim != 1 or labels.is_floating_point()):
                raise ValueError(f"label {dataset[0][1]!r}: {_EXPECTED_LABEL}{_ANY_LABEL}")
            return
        self._asked: list[tuple[int, Sequence[int]]] = []
        self._loader = DataLoader(
            _Batches(dataset, any_label),
            batch_size=None,
            sampler=self._asked,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=_as_it_is,
            pin_memory=device.type == "cuda",
            worker_init_fn=_leave_signals_to_the_trainer,
            generator=torch.Generator(),  # of its own: the global one is left alone
        )
        if workers:
            self._process = os.getpid()
            _with_workers.add(self)

    def batches(
        self, batches: Sequence[Sequence[int]], *, seed: int = 0, first: int = 0
    ) -> Iterator[tuple[Tensor, Shaped[Tensor, "B *target"]]]:
        """Images ``(B, C, H, W)``, as they are, and labels of each batch of image numbers, on the device.

        Images that are no tensors come as an :class:`atslib.patches.ImageBatch`. One call is to end before the next begins.

        Args:
            seed: of the random numbers that the set itself may draw in a worker, together with the place of the batch.
            first: place of the first batch.

        Raises:
            ValueError: images of different sizes in one batch, or a label that is no whole number, or with ``any_label`` is of
                another shape than others.
        """
        if (whole := self._in_memory) is not None:
            for numbers in batches:
                chosen = torch.tensor(numbers, device="cpu")  # whatever the default device is
                chosen = chosen if self._numbers is None else self._numbers[chosen]
                home = whole.images.device
                if home.type == "cuda":  # from pinned memory, so that the host does not wait
                    chosen = chosen.pin_memory()
                chosen = chosen.to(home, non_blocking=home.type == "cuda")
                some = whole.images[chosen], whole.labels[chosen]
                if home.type == "cpu" and self.device.type == "cuda":
                    some = [part.pin_memory() for part in some]
                yield tuple(part.to(self.device, non_blocking=self.device.type == "cuda") for part in some)
            return
        self._asked[:] = [(seed_for("workers", seed, first + place), numbers) for place, numbers in enumerate(batches)]
        ahead = self.device.type == "cuda"
        with torch.device("cpu"):  # PyTorch's own numbers for it are there
            reading = iter(self._loader)
        for batch in reading:
            yield batch.images.to(self.device, non_blocking=ahead), batch.labels.to(self.device, non_blocking=ahead)


def _in_memory(dataset: Dataset) -> tuple[InMemory | None, Int[Tensor, " n"] | None]:
    """The set in memory that this one is, or is a part of, and the numbers of its images there (None: all); else None twice."""
    if isinstance(dataset, InMemory) and type(dataset).__getitem__ is InMemory.__getitem__:  # else its items are its own
        return dataset, None
    if (inner := part_of(dataset)) is None:
        return None, None
    whole, numbers = _in_memory(inner[0])
    chosen = _tensor(inner[1]).long().cpu()
    return whole, chosen if numbers is None else numbers[chosen]


def part_of(dataset: Dataset) -> tuple[Dataset, Sequence[int]] | None:
    """The set of which this one is some images (:meth:`LabelledImages.part`, ``Subset``), and their numbers there; else None."""
    if type(dataset) is _Part:
        return dataset.whole, dataset.numbers
    return (dataset.dataset, dataset.indices) if type(dataset) is Subset else None


def _leave_signals_to_the_trainer(worker: int) -> None:
    """In a worker: Ctrl-C reaches all processes of a terminal, SIGTERM all of a job, and whoever trains has yet to save.

    Workers end with it all the same: it tells them, or they notice that it is gone.
    """
    # Functions: what a data set starts would inherit SIG_IGN.
    signal.signal(signal.SIGINT, _heedless)
    if hasattr(signal, "setitimer"):  # not on Windows, where SIGTERM does not come
        signal.signal(signal.SIGTERM, _linger)


def _heedless(number: int, frame: object) -> None:
    pass


_with_workers: weakref.WeakSet[Loader] = weakref.WeakSet()


@atexit.register  # after PyTorch's, so that it comes before: from then on PyTorch no longer does this
def _end_workers() -> None:
    """Of loaders that live until the program ends, in the traceback of an error, say: it would send SIGTERM, and they linger."""
    for loader in list(_with_workers):
        if loader._process != os.getpid():  # of the process that this one was forked from
            continue
        if hasattr(reading := getattr(loader._loader, "_iterator", None), "_shutdown_workers"):
            reading._shutdown_workers()


def _linger(number: int, frame: object) -> None:
    """SIGTERM is also how PyTorch ends a worker that is stuck: so this one ends, but late enough for a last step."""
    signal.setitimer(signal.ITIMER_REAL, _LAST_STEP)  # whose signal ends the process


_LAST_STEP = 120  # seconds


def collate(
    items: Sequence[tuple[Shaped[Tensor, "C H W"] | ImageSource, object]], *, any_label: bool = False
) -> tuple[Shaped[Tensor, "B C H W"] | ImageBatch, Shaped[Tensor, "B *target"]]:
    """Images and labels of a batch, for a ``DataLoader`` of your own; :class:`Loader` has it already.

    Like PyTorch's own, but for images that are no tensors, too, and clear about those that make no batch.

    Args:
        items: pairs of image and label.
        any_label: labels may be numbers or arrays of one shape, as in :class:`Loader`; ``functools.partial(collate,
            any_label=True)``.

    Raises:
        ValueError: items that are no pairs; images of different sizes or types in one batch; a label that is no whole number, or
            with ``any_label`` is of another shape than others; in a worker, an image that cannot be sent to another process.

    >>> from atslib.data import ImagePyramid
    >>> slides = [(ImagePyramid([np.zeros((60, 80, 3), np.uint8)]), label) for label in (0, 1, 1)]
    >>> for images, labels in DataLoader(slides, batch_size=2, collate_fn=collate):
    ...     print(images.shape, labels)
    torch.Size([2, 3, 60, 80]) tensor([0, 1])
    torch.Size([1, 3, 60, 80]) tensor([1])
    """
    items = [_pair(item) for item in items]
    if others := [image for image, _ in items if not hasattr(image, "shape")]:
        kind = type(others[0])
        how = ", from torchvision.transforms.functional.pil_to_tensor" if kind.__module__.startswith("PIL") else ""
        raise ValueError(f"image of type {kind.__name__} in a batch: expected tensors (C, H, W){how}, or image sources")
    if any(label is None for _, label in items):
        raise ValueError(f"label None: {_EXPECTED_LABEL}{_ANY_LABEL}; images without labels are for predict")
    sources = [isinstance(image, ImageSource) for image, _ in items]
    if any(sources) and not all(sources):
        raise ValueError("tensors and images in files in one batch: expected one of the two, or batches of one image")
    shapes = sorted({tuple(image.shape) for image, _ in items if hasattr(image, "shape")})
    if len({shape[:-2] for shape in shapes}) > 1:
        raise ValueError(
            f"images of shapes {shapes[0]} and {shapes[-1]} in one batch: expected as many channels of each; make all of them "
            "grey, or all RGB"
        )
    if len(shapes) > 1:
        raise ValueError(
            f"images of different sizes in one batch, {shapes[0]} and {shapes[-1]}: crop them to one size in the data set, "
            "pad them (atslib.data.Padded, which wants an attribute labels of the set), or take batches of one image (to train "
            "Settings(micro_batch_size=1), to evaluate batch_size=1)"
        )
    types = sorted({str(image.dtype).removeprefix("torch.") for image, _ in items if hasattr(image, "dtype")})
    if len(types) > 1:  # put together they would all be of one type, and whole numbers no longer be read as 255ths
        raise ValueError(f"images of types {' and '.join(types)} in one batch: expected one type, uint8 or floating point")
    if all(sources) and get_worker_info() is not None:
        for image, _ in items:
            _check_can_be_sent(image)
    if any_label:
        labels = [_number(label) for _, label in items]
        shapes = sorted({tuple(label.shape) for label in labels})
        if len(shapes) > 1:
            raise ValueError(f"labels of different shapes in one batch, {shapes[0]} and {shapes[-1]}: expected one shape")
        images = [image for image, _ in items]
        return ImageBatch(images) if all(sources) else default_collate(images), as_numbers(torch.stack(labels))
    if all(sources):
        images, labels = ImageBatch([image for image, _ in items]), default_collate([label for _, label in items])
    else:
        images, labels = default_collate(items)
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.ndim != 1:
        raise ValueError(f"label {items[0][1]!r}: {_EXPECTED_LABEL}{_ANY_LABEL}")
    return images, labels.long()  # a class is a number of 64 bits to PyTorch's loss


def _check_can_be_sent(image: ImageSource) -> None:
    """Raise a ValueError in a worker whose image cannot go to another process: its queue would, but nobody would hear of it."""
    try:
        _WithoutPixels(SimpleNamespace(write=len)).dump(image)
    except Exception as error:  # each library has its own
        raise ValueError(
            f"an image of type {type(image).__name__} cannot be sent from a worker ({error}): expected workers=0, or "
            "ImagePyramid.open(file), which is sent as its path"
        ) from error


class _WithoutPixels(ForkingPickler):
    """What workers send with, but for tensors and arrays, which can be sent and may be large."""

    def persistent_id(self, part: object) -> bool | None:
        return True if isinstance(part, Tensor | np.ndarray) else None


class _Batches(Dataset):
    """Whole batches of a set as items, each with a seed of its own."""

    def __init__(self, dataset: Dataset, any_label: bool):
        self.dataset, self.any_label = dataset, any_label

    def __getitem__(self, asked: tuple[int, Sequence[int]]) -> _Batch:
        seed, numbers = asked
        if get_worker_info() is not None:  # elsewhere the random numbers are the caller's
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002, whatever the set draws from
            torch.manual_seed(seed)
        together = getattr(self.dataset, "__getitems__", None)
        items = together(numbers) if together else [self.dataset[number] for number in numbers]
        return _Batch(*collate(items, any_label=self.any_label))


@dataclass
class _Batch:
    """Images and labels of a batch on their way to the device."""

    images: Tensor | ImageBatch
    labels: Tensor

    def pin_memory(self) -> _Batch:
        """Called where the device is a GPU; what is there already, or lies in files, stays as it is."""
        pinned = (part.pin_memory() if isinstance(part, Tensor) and part.is_cpu else part for part in (self.images, self.labels))
        return _Batch(*pinned)


def _as_it_is(batch: _Batch) -> _Batch:
    return batch


def _pair(item: object) -> tuple:
    if not isinstance(item, tuple | list) or len(item) != 2:
        said = f"an item of {len(item)} parts" if isinstance(item, tuple | list) else f"an item of type {type(item).__name__}"
        raise ValueError(f"{said}: expected each item of the set to be (image, label)")
    image, label = item
    return from_array(image) if isinstance(image, np.ndarray) else image, label


def _number(label: object) -> Tensor:
    """A label that is a number or an array of them."""
    try:
        return _tensor(label)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"label {label!r}: expected a number, or an array of numbers") from error


def as_numbers(labels: Shaped[Tensor, "*B"]) -> Shaped[Tensor, "*B"]:
    """Integers in 64 bits, as PyTorch's losses want classes; all others, and yes or no, in float32."""
    return labels.float() if labels.is_floating_point() or labels.dtype == torch.bool else labels.long()
