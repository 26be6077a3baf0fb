"""What a trained model says about images without labels."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from atslib.loading import Loader, seed_for
from atslib.models import AttentionSampling, evaluating
from atslib.patches import ImageSource
from atslib.training import _check_set, _device_of, _warn_of_range, check_options


@dataclass(frozen=True)
class Prediction:
    """What a model answered, for each image and each look at it.

    Attributes:
        looks: the logits of each look, ``(images, looks, classes)``.
    """

    looks: Float[Tensor, "n looks classes"]

    @property
    def logits(self) -> Float[Tensor, "n classes"]:
        """Mean over the looks. With a linear classifier each look is unbiased for the full model's logits (eq. 1); so is this."""
        return self.looks.mean(1)

    @property
    def probabilities(self) -> Float[Tensor, "n classes"]:
        """Of each class, the softmax of :attr:`logits`."""
        return self.logits.softmax(1)

    @property
    def spread(self) -> Float[Tensor, "n classes"]:
        """Standard deviation of a class's probability from one look to another, n − 1 in the denominator; NaN with one look."""
        probabilities = self.looks.softmax(2)
        return probabilities.std(1) if probabilities.shape[1] > 1 else torch.full_like(probabilities[:, 0], torch.nan)

    @property
    def predicted(self) -> Int[Tensor, " n"]:
        """The class with the largest of the mean logits."""
        return self.logits.argmax(1)


@torch.no_grad()
def predict(
    model: nn.Module,
    images: Dataset | Sequence[Tensor | ImageSource],
    looks: int = 1,
    *,
    seed: int = 0,
    bfloat16: bool = False,
    device: str | torch.device | None = None,
    workers: int = 0,
    progress: bool = True,
    **options,
) -> Prediction:
    """The model's answers, in evaluation mode; images may differ in size.

    An image's draws depend on its place in ``images`` and the seed, not on the other images or on ``workers``.

    Args:
        images: a set or list of images ``(C, H, W)``, or of pairs (image, label), of which the label is not looked at; images in
            files as :class:`atslib.data.ImagePyramid`.
        looks: how often each image is looked at, with new draws each time.
        seed: of the draws.
        bfloat16: compute in it, as :func:`atslib.training.train` does where it trains in it.
        device: where to; the model's own if none is given. The model is not moved.
        workers: processes that read images ahead.
        options: for the model's call, ``n_patches=50``, say.

    Raises:
        ValueError: no image, or a loader in place of a set; looks that are no whole number above 0; what the model raises, with
            the number of the image; an item that is no image.
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
    _check_set(images, "a set")
    if "generator" in options:
        raise ValueError("a generator for predict: expected a seed, from which each image has draws of its own")
    device = _device_of(model) if device is None else torch.device(device)
    answers = []
    # A model of one's own may have attention, and a call that does not take it.
    takes = inspect.signature(model.forward).parameters.keys() - options.keys()
    attends_once = looks > 1 and isinstance(model, AttentionSampling) and {"low", "log_attention"} <= takes
    check_options(model, options, "predict")
    loaded = Loader(_Unlabelled(images), device, workers=workers).batches([[number] for number in range(len(images))])
    with evaluating(model):
        for number, (image, _) in enumerate(tqdm(loaded, total=len(images), disable=not progress, unit="image", leave=False)):
            if not number:
                _warn_of_range(image, model)
            draws = torch.Generator(device).manual_seed(seed_for("draws", seed, number))
            try:
                with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                    # View and attention are the same in every look.
                    attended = dict(zip(("low", "log_attention"), model.attend(image), strict=True)) if attends_once else {}
                    every = [model(image, generator=draws, **attended, **options).logits[0].float() for _ in range(int(looks))]
            except ValueError as error:
                raise ValueError(f"image {number}: {error}") from error
            answers.append(torch.stack(every).cpu())
            most = answers[-1].amax(1)  # NaN would be counted as an answer, of the class that comes first; a class may be -inf
            if not most.isfinite().all():
                raise FloatingPointError(f"image {number}: logits that are not finite")
    return Prediction(torch.stack(answers))


class _Unlabelled(Dataset):
    """The images of a set, with a label that says nothing."""

    def __init__(self, images: Dataset | Sequence):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[Shaped[Tensor, "C H W"] | ImageSource, int]:
        item = self.images[number]
        image = item[0] if isinstance(item, tuple | list) and item else item
        if not isinstance(image, Tensor | ImageSource | np.ndarray):
            raise ValueError(f"image {number} is a {type(image).__name__}: expected a tensor (C, H, W), or it and a label")
        if not isinstance(image, ImageSource) and image.ndim > 3:
            raise ValueError(f"image {number} of shape {tuple(image.shape)}: expected (C, H, W), one image an item")
        return image, 0
