"""What a trained model says about images without labels."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from atslib.checks import check_options, check_output, check_set, no_answer, warn_of_range
from atslib.data.files import DataError
from atslib.loading import Loader, seed_for
from atslib.models import AttentionSampling, evaluating
from atslib.patches import ImageSource
from atslib.processes import device_of
from atslib.warned import warn


@dataclass(frozen=True)
class Prediction:
    """What a model answered, for each image and each look at it.

    Attributes:
        looks: the logits of each look, ``(images, looks, outputs)``.
        answer: what logits ``(…, outputs)`` say, as the loss reads them: ``torch.sigmoid`` of several labels an image, say. None:
            one of several classes, whose probabilities are the softmax; of a single output, the number itself.
        unread: of images that could not be read, by their number, why; their logits are NaN. See ``skip_unreadable`` of
            :func:`predict`.
    """

    looks: Float[Tensor, "n looks outputs"]
    answer: Callable[[Tensor], Tensor] | None = None
    unread: dict[int, str] = field(default_factory=dict)

    @property
    def logits(self) -> Float[Tensor, "n outputs"]:
        """Mean over the looks. With a linear classifier each look is unbiased for the full model's logits (eq. 1); so is this."""
        return self.looks.mean(1)

    @property
    def answers(self) -> Shaped[Tensor, "n *answer"]:
        """What :attr:`logits` say, by :attr:`answer`, else :attr:`probabilities`, or of a single output the number."""
        return self._read(self.logits)

    @property
    def spread(self) -> Float[Tensor, "n *answer"]:
        """Standard deviation of the :attr:`answers` from one look to another, n − 1 in the denominator; NaN with one look.

        It says how much is the luck of the draw, not whether the model is right.
        """
        n, looks = self.looks.shape[:2]
        each = self._read(self.looks.flatten(0, 1)).unflatten(0, (n, looks)).float()
        return each.std(1) if looks > 1 else torch.full_like(each[:, 0], torch.nan)

    @property
    def probabilities(self) -> Float[Tensor, "n classes"]:
        """Of each class, the softmax of :attr:`logits`.

        Raises:
            ValueError: outputs that are no classes: a single one, or an ``answer`` that was given.
        """
        self._check_classes("probabilities")
        return self.logits.softmax(1)

    @property
    def predicted(self) -> Int[Tensor, " n"]:
        """The class with the largest of the mean logits, −1 of an image that was not read; raises as :attr:`probabilities`."""
        self._check_classes("predicted")
        return self.logits.argmax(1).masked_fill(self.logits.isnan().any(1), -1)

    def _read(self, logits: Float[Tensor, "m outputs"]) -> Shaped[Tensor, "m *answer"]:
        if self.answer is not None:
            return self.answer(logits)
        return logits.softmax(1) if logits.shape[1] > 1 else logits

    def _check_classes(self, what: str) -> None:
        if self.answer is not None or self.looks.shape[2] == 1:
            said = "a single output" if self.answer is None else "an answer of the caller's"
            raise ValueError(f"{what} of {said}: expected the outputs of classes; answers and spread are there for any outputs")


@torch.no_grad()
def predict(
    model: nn.Module,
    images: Dataset | Sequence[Tensor | ImageSource | tuple[Tensor | ImageSource, object] | str | os.PathLike],
    looks: int = 1,
    *,
    seed: int = 0,
    answer: Callable[[Tensor], Tensor] | None = None,
    exact: bool = False,
    bfloat16: bool = False,
    device: str | torch.device | None = None,
    workers: int = 0,
    skip_unreadable: bool = False,
    progress: bool = True,
    **options,
) -> Prediction:
    """The model's answers, in evaluation mode; images may differ in size.

    An image's draws depend on its place in ``images`` and the seed, not on the other images or on ``workers``. Where several
    threads ask one model, put it into evaluation mode before, ``model.eval()``: a change of mode here is seen by all of them.

    Args:
        images: a set or list of images ``(C, H, W)``, or of pairs (image, label), of which the label is not looked at; paths of
            image files (:func:`atslib.data.read_image`). Large images in files as :class:`atslib.data.ImagePyramid`; of many of
            them the set ``ImageFiles(paths, labels, read=ImagePyramid.open)``, which opens one after the other.
        looks: how often each image is looked at, with new draws each time.
        seed: of the draws. Where the model looked in image k, look by look: call it on the image in evaluation mode with one
            generator for all looks, ``torch.Generator(device).manual_seed(seed_for("draws", seed, k))`` with
            :func:`atslib.loading.seed_for`; its output has the locations.
        answer: of :class:`Prediction`; where the model was trained with a ``loss`` of your own.
        exact: ask the full model, :meth:`atslib.models.AttentionSampling.exact`, which looks everywhere, and once.
        bfloat16: compute in it, as :func:`atslib.training.train` does where it trains in it.
        device: where the images are brought; to the model's own if none is given. The model is not moved, and computes where it
            is: with ``"cpu"`` images too large for its GPU stay in the computer's memory, and only what it looks at travels.
        workers: processes that read images ahead.
        skip_unreadable: go on after an image that cannot be read, so that one file in thousands does not cost the answers to the
            others, and warn at the end; :attr:`Prediction.unread` says which and why. Such is what this function, a set or an
            image in a file says :class:`atslib.data.DataError` of.
        options: for the model's call, ``n_patches=50``, say, or that of ``exact``, ``chunk=100``.

    Raises:
        ValueError: no image, a loader in place of a set, or one image; looks that are no whole number above 0, or several with
            ``exact``; ``return_patches``, for which there is the model's own call; what the model raises, with the number of the
            image; a model that returns no logits ``(1, outputs)``; an item that is no image.
        DataError: a file that is no image; with ``skip_unreadable``, if there is no other.
        TypeError: an option that neither this function nor the model's call has.
        FloatingPointError: logits with NaN or +inf, or all -inf.

    >>> from atslib import UniformSampling
    >>> from atslib.networks import Classifier, LeNetFeatures
    >>> model = UniformSampling(LeNetFeatures(), Classifier(32, 10), patch_size=50, n_patches=2)
    >>> found = predict(model, [torch.zeros(1, 200, 300), torch.zeros(1, 400, 400)], looks=3, progress=False)
    >>> tuple(found.looks.shape), tuple(found.probabilities.shape)
    ((2, 3, 10), (2, 10))
    """
    if looks != int(looks) or looks < 1:
        raise ValueError(f"looks={looks}: expected a whole number, at least 1")
    if isinstance(images, str | os.PathLike):
        several = "sorted(Path(folder).iterdir()), say" if os.path.isdir(images) else "[path] for one"
        raise ValueError(f"one path for predict: expected those of several images, {several}")
    if isinstance(images, Tensor) and images.ndim == 3:
        raise ValueError("one image for predict: expected several, [image] for one")
    if hasattr(images, "iloc"):  # a column of a table, whose items are not found by their place
        images = list(images)
    if isinstance(images, ImageSource) and len(images) == 1:
        images = [images]
    check_set(images, "a set")
    if exact and looks > 1:
        raise ValueError(f"exact=True and looks={looks}: the full model draws nothing, and answers alike every time")
    check_options(model, options, "predict", exact)
    device = device_of(model) if device is None else torch.device(device)
    home = device_of(model, device)  # where it computes and draws
    answers, unread, warned = {}, {}, False
    # A model of one's own may have attention, and a call that does not take it.
    takes = inspect.signature(model.forward).parameters.keys() - options.keys()
    attends_once = looks > 1 and isinstance(model, AttentionSampling) and {"low", "log_attention"} <= takes
    unlabelled = _Unlabelled(images, skip_unreadable)
    loaded = Loader(unlabelled, device, workers=workers).batches([[number] for number in range(len(images))])
    with evaluating(model):
        bar = tqdm(loaded, total=len(images), disable=not progress, unit="image", leave=False)
        for number, (image, unreadable) in enumerate(bar):
            if skip_unreadable and unreadable.item():
                unread[number] = unlabelled.why_unreadable(number)
                continue
            if not warned and (device.type == "cpu" or not number):
                warned = warn_of_range(image, model, first=False)
            draws = torch.Generator(home).manual_seed(seed_for("draws", seed, number))
            try:
                with torch.autocast(home.type, torch.bfloat16, enabled=bfloat16):
                    # View and attention are the same in every look.
                    attended = dict(zip(("low", "log_attention"), model.attend(image), strict=True)) if attends_once else {}
                    call = model.exact if exact else partial(model, generator=draws, **attended)
                    every = [check_output(model, call(image, **options), 1)[0].float() for _ in range(int(looks))]
            except (ValueError, RuntimeError) as error:
                if skip_unreadable and isinstance(error, DataError):  # of an image of which only a part is damaged
                    unread[number] = str(error)
                    continue
                if type(error) not in (ValueError, RuntimeError):  # others may not be made of a message
                    raise
                shape = f" of shape {tuple(image.shape[1:])}" if type(error) is RuntimeError else ""  # PyTorch's words
                raise type(error)(f"image {number}{shape}: {error}") from error
            answers[number] = torch.stack(every).cpu()
            if no_answer(answers[number]).any():
                raise FloatingPointError(f"image {number}: logits that are not finite")
    if unread:
        number, why = next(iter(unread.items()))
        said = f"{len(unread)} of {len(images)} images could not be read, the first of them image {number}: {why}"
        if not answers:
            raise DataError(said)
        warn(said)
        nothing = torch.full_like(next(iter(answers.values())), torch.nan)
        answers |= dict.fromkeys(unread, nothing)
    return Prediction(torch.stack([answers[number] for number in range(len(images))]), answer, unread)


class _Unlabelled(Dataset):
    """The images of a set, with a label that says whether the image cannot be read."""

    def __init__(self, images: Dataset | Sequence, skip_unreadable: bool):
        self.images = images
        self.skip_unreadable = skip_unreadable

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[Shaped[Tensor, "C H W"] | ImageSource, int]:
        try:
            return self._image(number), 0
        except DataError:
            if not self.skip_unreadable:
                raise
            return torch.zeros(1, 1, 1, dtype=torch.uint8), 1

    def why_unreadable(self, number: int) -> str:
        """Found out once more: a worker process cannot say it."""
        try:
            self._image(number)
        except DataError as error:
            return str(error)
        return "it can be read now, and could not before"

    def _image(self, number: int) -> Shaped[Tensor, "C H W"] | ImageSource:
        item = self.images[number]
        if isinstance(item, str | os.PathLike):
            from atslib.data import read_image  # needs Pillow, which images that are tensors do not

            return read_image(item)
        image = item[0] if isinstance(item, tuple | list) and item else item
        if not isinstance(image, Tensor | ImageSource | np.ndarray):
            said = f"image {number} is a {type(image).__name__}"
            raise ValueError(f"{said}: expected a tensor (C, H, W), it and a label, or the path of a file")
        if not isinstance(image, ImageSource) and image.ndim > 3:
            raise ValueError(f"image {number} of shape {tuple(image.shape)}: expected (C, H, W), one image an item")
        return image
