"""What training, tests and predictions refuse, and what they warn of: sets, labels, pixels and the model's answers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, Dataset

from atslib.loading import LabelledImages, known_labels
from atslib.models import AttentionSampling, sum_to_one
from atslib.patches import ImageSource
from atslib.warned import warn


def check_set(dataset: Dataset, what: str) -> None:
    """Raise a ValueError for a loader, for what is no set, and for one without images; ``what`` it should be, for the message."""
    if isinstance(dataset, Mapping) or hasattr(dataset, "iloc"):  # a dict, a table
        raise ValueError(f"a {type(dataset).__name__} for {what}: expected one with items by their number, (image, label) each")
    if isinstance(dataset, DataLoader):
        raise ValueError(f"a DataLoader for {what}: expected the set itself, loader.dataset, and workers as an argument")
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise ValueError(f"a {type(dataset).__name__} for {what}: expected a set with a length and items, (image, label) each")
    if not len(dataset):
        raise ValueError(f"{what} of 0 images: expected at least 1")


def check_options(model: nn.Module, options: dict, function: str, exact: bool = False) -> None:
    """Raise for words that the model's call (or that of ``exact``) is not to be given by ``predict`` or ``evaluate``.

    Raises:
        ValueError: words that are one call's affair; ``exact`` of a model without.
        TypeError: a word that neither the function nor the model's call knows.
    """
    if options.get("return_patches"):
        alone = "call the model, model(image, return_patches=True)"
        raise ValueError(f"return_patches for {function}, which keeps logits only: {alone}")
    if "generator" in options:
        raise ValueError(f"a generator for {function}: expected a seed, from which it makes the draws of all images")
    if given := options.keys() & {"low", "log_attention"}:
        raise ValueError(f"{min(given)} for {function}, which is one image's: call the model, image by image")
    if exact and not hasattr(model, "exact"):
        wraps = isinstance(getattr(model, "module", None), nn.Module)
        within = "; the model that it wraps may have one, .module" if wraps else ""
        raise ValueError(f"exact=True for a {type(model).__name__}: it has no method exact{within}")
    accepted = inspect.signature(model.exact if exact else model.forward).parameters
    unknown = [name for name in options if name not in accepted]
    if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values()):
        hint = {"num_workers": "; it is called workers here", "n_regions": "; it is called n_patches here"}.get(unknown[0], "")
        called = f"{type(model).__name__}.{'exact' if exact else 'forward'}()"
        raise TypeError(f"{function}() has no argument {unknown[0]!r}, and {called} has none{hint}")


def check_output(model: nn.Module, out: object, count: int) -> Float[Tensor, "count outputs"]:
    """The logits of what the model returned for ``count`` images, or a ValueError that says what is wrong with it."""
    if not hasattr(out, "logits"):
        raise ValueError(
            f"{type(model).__name__} returned a {type(out).__name__}: expected an atslib.models.Output, with logits, and with "
            "log_attention=None where there is no attention"
        )
    logits = out.logits
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != count or not logits.shape[1]:
        said = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"type {type(logits).__name__}"
        raise ValueError(
            f"{type(model).__name__} returned logits of {said} for a batch of {count}: expected ({count}, outputs), one row for "
            f"each image, ({count}, 1) of a single output"
        )
    return logits


def labels_of(dataset: Dataset, batch: Int[Tensor, " B"]) -> Int[Tensor, " N"]:
    """All labels of a set that is known to tell them, else those of a batch; other sets may mean anything by ``labels``."""
    return known_labels(dataset) if isinstance(dataset, LabelledImages) else batch


def check_kind(labels: Int[Tensor, " B"], logits: Float[Tensor, "B classes"]) -> None:
    """Raise a ValueError unless there is one whole number for each image."""
    if isinstance(labels, Tensor) and not labels.is_floating_point() and logits.ndim == 2 and labels.shape == logits.shape[:1]:
        return
    said = f"type {type(labels).__name__}"
    if isinstance(labels, Tensor):
        said = f"shape {tuple(labels.shape)} and type {labels.dtype}"
    raise ValueError(
        f"labels of {said} for logits of shape {tuple(logits.shape)}: expected logits (B, classes) and a tensor (B,) of whole "
        "numbers, the class of each image; for several labels an image, or a number, combine another loss with out.entropy()"
    )


def check_labels(labels: Int[Tensor, " N"], n_classes: int, class_weights: Float[Tensor, " classes"] | None = None) -> None:
    """Raise a ValueError for labels that are no class of the model, and for weights that are not one a class."""
    if class_weights is not None and class_weights.shape != (n_classes,):
        raise ValueError(f"class_weights of shape {tuple(class_weights.shape)}: expected one for each of {n_classes} classes")
    if not labels.numel():
        return
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= n_classes:
        raise ValueError(
            f"label {highest if highest >= n_classes else lowest}: expected 0 to {n_classes - 1}, for the model answers with "
            f"{n_classes} class{'es' * (n_classes != 1)}"
            + "; for yes or no it needs two, or a loss of your own: binary cross-entropy of logits[:, 0]" * (n_classes == 1)
        )


def no_answer(logits: Float[Tensor, "B outputs"]) -> Bool[Tensor, " B"]:
    """Logits that say nothing: NaN would be counted as an answer, of the class that comes first. A class may be -inf."""
    return ~logits.amax(1).isfinite()


def refuse_pixels(images: Tensor | ImageSource, numbers: Sequence[int], error: type[Exception] = ValueError) -> None:
    """Raise an error that names the image of the set whose pixels are not finite, if there is one."""
    if isinstance(images, Tensor):
        for number, image in zip(numbers, images, strict=True):
            if not (finite := image.isfinite()).all():
                share = 1 - finite.double().mean().item()
                raise error(
                    f"image {number} of the set: {share:.2g} of its pixels are NaN or infinite; give what is not known a number, "
                    "the model's fill, say"
                )


def refuse_missing(
    images: Tensor | ImageSource | None,
    labels: Shaped[Tensor, "B *target"],
    logits: Float[Tensor, "B outputs"],
    losses: Float[Tensor, " B"],
    numbers: Sequence[int],
) -> None:
    """Raise a FloatingPointError that names an image whose loss, and label or pixels, are not finite, if there is one."""
    for place in (~losses.isfinite()).nonzero()[:, 0].tolist():
        if labels.is_floating_point() and logits[place].isfinite().all() and not labels[place].isfinite().all():
            raise FloatingPointError(
                f"image {numbers[place]} of the set has the label {labels[place].tolist()}, and its loss is not finite: leave "
                "out what has none, or write a loss that passes it over (torch.where, before it is computed with)"
            )
        if isinstance(images, Tensor):
            refuse_pixels(images[place : place + 1], numbers[place : place + 1], FloatingPointError)


def of_images(error: Exception, numbers: Sequence[int]) -> Exception:
    """The error with the images of the set that it is about; itself, where it may be more than a message."""
    if type(error) not in (ValueError, RuntimeError):
        return error
    some = ", ".join(map(str, numbers[:5])) + ", …" * (len(numbers) > 5)
    return type(error)(f"image{'s' * (len(numbers) > 1)} {some} of the set: {error}")


@torch.no_grad()
def attention_is_finite(model: nn.Module, images: Tensor | ImageSource) -> bool:
    """Whether the attention on these images is finite, so that something else is wrong; True where it is not known, too."""
    if not isinstance(model, AttentionSampling) or not isinstance(images, Tensor) or not images.isfinite().all():
        return True
    try:
        log_attention = model.attend(images)[1]
        return not bool((log_attention.isnan() | (log_attention == math.inf)).any())
    except ValueError:
        return True


def warn_of_range(images: Tensor | ImageSource, model: nn.Module, *, first: bool) -> bool:
    """Warn of images whose numbers hardly are what the networks expect; whether there was something to warn of.

    Of a source the model's view is looked at, which it needs anyway.

    Args:
        first: whether these are the first images of several, which would hardly all be that dark.
    """
    if not images.is_floating_point():
        if not first or not isinstance(images, Tensor) or images.amax() != 1:
            return False
        warn(
            "uint8 images of zeros and ones in the first batch, which networks see as 0 and 1/255: make them floating point, "
            "image.float(), or multiply them by 255"
        )
        return True
    if isinstance(images, ImageSource):
        if not isinstance(model, AttentionSampling):
            return False
        images = model.view(images)
    most, fill = images.max().item(), getattr(model, "fill", 0)
    if most > 64:
        warn(
            f"floating-point images up to {most:g}, which the networks see as they are: uint8 is seen as [0, 1], others are to "
            "be divided by their white"
        )
    elif first and 0 < most < 1 / 8 and images.min() >= 0:
        warn(
            f"floating-point images from 0 up to {most:.2g} in the first batch, nearly black to networks and to a saliency "
            "prior: unless they are that dark, divide them by the white of their device (4095 for 12 bits), not by the largest "
            "number of the file's type"
        )
    elif fill > 4 * max(most, 1):
        warn(
            f"fill={fill:g} of the model beside floating-point images up to {most:.2g}: expected a value in the images' own "
            "range; that of uint8, 0 to 255, is for uint8 images"
        )
    else:
        return False
    return True


def warn_of_probabilities(model: nn.Module, logits: Float[Tensor, "B classes"]) -> None:
    """Warn of a classifier that seems to take the softmax itself: the cross-entropy takes it once more."""
    if sum_to_one(logits):
        warn(
            f"the {type(model).__name__} returned numbers that sum to one, as after a softmax: expected logits, of which the "
            "cross-entropy takes the softmax; with probabilities its loss cannot come near zero"
        )


def warn_of_moving_statistics(model: nn.Module, frozen: Collection[nn.Module]) -> None:
    """Of batch normalisation whose weights are frozen, and which is in training mode all the same."""
    evaluated = set(frozen)
    moving = [
        name
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module not in evaluated and module.track_running_stats
        if module.affine and not any(parameter.requires_grad for parameter in module.parameters())
    ]
    if moving:
        warn(
            f"batch normalisation with frozen weights ({moving[0]}) in training mode: its mean and variance go on moving; to "
            "keep them, call model.train() and then eval() of the frozen part, before training"
        )
