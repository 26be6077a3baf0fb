"""What a training makes small, and what is counted as wrong: a number for each image."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from atslib.checks import check_kind, check_labels
from atslib.models import Output
from atslib.warned import warn

# Of logits and labels of a batch, a number for each image.
Measure = Callable[[Float[Tensor, "B outputs"], Shaped[Tensor, "B *target"]], Float[Tensor, " B"]]


def attention_loss(
    out: Output,
    labels: Int[Tensor, " B"],
    entropy_weight: float = 0.01,
    class_weights: Float[Tensor, " classes"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The loss of eq. 21, and the cross-entropy in it, both means over the batch.

    .. math::  \\mathcal L' = c_y\\, \\mathrm{CE}(\\text{logits}, y) - \\lambda\\, H(a)

    The class weights c multiply each image's cross-entropy, and the sum is divided by the number of images, as Keras does it;
    dividing by the sum of the weights, as ``F.cross_entropy`` does, would make an image's part depend on its batch. A method
    without attention has no entropy to be rewarded for.

    Args:
        out: of a model.
        labels: of the images, positions among the model's classes.
        entropy_weight: λ.
        class_weights: c, one a class; none counts every class once.

    Raises:
        ValueError: class weights that are not one a class; labels that are not one whole number for each image; on the CPU,
            labels that are no class of the model. (On a GPU asking would make the host wait. PyTorch then stops at most of them,
            and −100 counts nothing.)

    Where an image has several labels, or a number is to be predicted, give :func:`atslib.training.train` a ``loss``. In a loop of
    your own, write another and reward the entropy in it:
    ``binary_cross_entropy_with_logits(out.logits, y) - entropy_weight * out.entropy().mean()``.
    """
    if not hasattr(out, "logits"):
        raise ValueError(f"out of type {type(out).__name__}: expected what the model returned, and not the logits alone")
    check_kind(labels, out.logits)
    labels = labels.long()
    if not isinstance(class_weights, Tensor | None):
        class_weights = torch.tensor(class_weights, dtype=torch.float32, device=labels.device)
    if not torch.compiler.is_compiling():
        check_labels(labels if labels.device.type == "cpu" else labels[:0], out.logits.shape[1], class_weights)
    cross_entropy = cross_entropy_of(out, labels, class_weights)
    return (cross_entropy - entropy_weight * entropy_of(out, cross_entropy)).mean(), cross_entropy.mean()


def cross_entropy_of(
    out: Output, labels: Int[Tensor, " B"], class_weights: Float[Tensor, " classes"] | None
) -> Float[Tensor, " B"]:
    """The cross-entropy of each image, in float32, times its class's weight where there are weights."""
    cross_entropy = F.cross_entropy(out.logits.float(), labels, reduction="none")
    return cross_entropy if class_weights is None else class_weights[labels] * cross_entropy


def entropy_of(out: Output, like: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """The entropy of each image's attention; zero where there is none."""
    return torch.zeros_like(like) if out.log_attention is None else out.entropy()


def measured(
    measure: Measure, name: str, logits: Float[Tensor, "B outputs"], labels: Shaped[Tensor, "B *target"]
) -> Shaped[Tensor, " B"]:
    """What a loss or an error of the caller's says of each image."""
    try:
        values = measure(logits.float(), labels)
    except RuntimeError as failure:
        if labels.is_floating_point():
            raise
        with suppress(RuntimeError):
            measure(logits.float(), labels.float())
            said = f"{name} of labels of type {labels.dtype}: {failure}"
            raise ValueError(f"{said} (labels.float() makes numbers of them)") from failure
        raise
    if isinstance(values, Tensor) and values.shape == logits.shape[:1]:
        return values
    single = logits.shape[1:] == (1,) and labels.ndim == 1  # less labels (B,), outputs (B, 1) are (B, B)
    hint = "of outputs (B, 1) take logits[:, 0]" if single else "reduction='none', then the mean over the rest"
    said = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else f"type {type(values).__name__}"
    raise ValueError(
        f"{name} returned {said} for logits of shape {tuple(logits.shape)} and labels of shape {tuple(labels.shape)}: expected "
        f"a tensor of shape {tuple(logits.shape[:1])}, one number for each image ({hint})"
    )


def errors_of(
    error: Measure | None, loss: Measure | None, logits: Float[Tensor, "B outputs"], labels: Shaped[Tensor, "B *target"]
) -> Shaped[Tensor, " B"]:
    """The error of each image; zeros where nothing says what one is."""
    if error is not None:
        return measured(error, "error", logits, labels).detach()
    return logits.argmax(1) != labels if loss is None else torch.zeros(len(logits), device=logits.device)


def warn_of_mixed_images(
    loss: Measure, logits: Float[Tensor, "B outputs"], labels: Shaped[Tensor, "B *target"], losses: Float[Tensor, " B"]
) -> None:
    """Of a loss of outputs (B, 1) and labels (B,) in which broadcasting sets every output against every label."""
    if logits.shape[1:] != (1,) or labels.ndim != 1 or len(labels) < 2:
        return
    # Whatever else a loss does with a batch is its own affair, and it may not take one image, or labels (B, 1).
    with torch.no_grad(), torch.random.fork_rng([logits.device] if logits.is_cuda else []), suppress(Exception):
        alone = loss(logits[:1].float(), labels[:1])
        beside = loss(logits.float(), labels[:, None])  # what it would be, output by output
        same = partial(torch.allclose, rtol=1e-3, atol=1e-6)
        if same(alone, beside[:1]) and not same(alone, losses[:1].detach()):
            warn(
                f"of outputs {tuple(logits.shape)} and labels {tuple(labels.shape)} the loss sets each output against every "
                "label: take logits[:, 0]"
            )
