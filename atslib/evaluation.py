"""How often a model is wrong on a set of images, and its loss."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from atslib.arguments import is_whole
from atslib.checks import (
    check_labels,
    check_options,
    check_output,
    check_set,
    labels_of,
    no_answer,
    of_images,
    refuse_missing,
    refuse_pixels,
    warn_of_range,
)
from atslib.loading import Items, Loader, in_parts, whole_micro_batch_size
from atslib.losses import Measure, measured
from atslib.models import evaluating
from atslib.processes import Processes, device_of


def evaluate(
    model: nn.Module,
    dataset: Items,
    batch_size: int = 32,
    *,
    seed: int = 0,
    bfloat16: bool = False,
    device: str | torch.device | None = None,
    loss: Measure | None = None,
    error: Measure | None = None,
    exact: bool = False,
    workers: int = 0,
    progress: bool = True,
    processes: Processes | None = None,
    micro_batch_size: int | None = None,
    **options,
) -> dict:
    """Error and loss of ``model`` on ``dataset``, the model in evaluation mode and without gradients.

    Args:
        model, dataset: as in :func:`atslib.training.train`.
        batch_size: images at a time.
        seed: of the draws of locations: with the same images in the same order and batches of the same size, the same seed
            looks at the same patches. What is drawn for an image depends on those before it;
            :func:`atslib.prediction.predict` draws for each by itself.
        bfloat16: compute in it, as :func:`atslib.training.train` does where it trains in it.
        device: where to; the model's own if none is given. The model is not moved.
        loss, error: in place of the cross-entropy, and of being wrong, as in :func:`atslib.training.train`.
        exact: ask the full model, :meth:`atslib.models.AttentionSampling.exact`, which looks everywhere: for a few images.
        workers: processes that read images ahead.
        processes: share the images where there are several, and all get the answer.
        micro_batch_size: images of a batch that are seen at a time, see :class:`atslib.training.Settings`; None for all.
        options: for the model's call, ``n_patches=50``, say, or that of ``exact``, ``chunk=100``.

    Returns:
        ``error`` (share of images answered wrongly), ``loss`` (cross-entropy), ``stderr`` (of the error, binomial,
        :math:`\\sqrt{e (1 - e) / n}`: 0 where all or none are wrong, which is not to say that the error is known),
        ``balanced_error`` (the mean over the classes that occur of the share of theirs that is answered wrongly: 1 − 1 / classes
        for whoever answers always the same), ``n`` (images), ``confusion`` (images by true and by answered class),
        ``predicted``, ``labels`` and ``logits`` (tensors, in the set's order). With a ``loss``: its mean, ``n``, ``labels``
        and ``logits``. With an ``error``: its mean, and as ``stderr`` that of the mean, :math:`s / \\sqrt n`.

    Raises:
        ValueError: a set without images, or a loader in place of one; a ``micro_batch_size`` that is no number of images;
            labels that are no class of the model; a ``loss`` or ``error`` that returns anything but a number for each image;
            ``exact`` of a model without; ``return_patches`` and other words of one call, a generator, say; a model that returns
            no logits ``(B, outputs)``; what the model raises.
        TypeError: an option that neither this function nor the model's call has.
        FloatingPointError: logits with NaN or +inf, or all -inf; a ``loss`` that is not finite where a label is not.
    """
    group = processes or Processes(device_of(model) if device is None else device)
    device = group.device
    check_set(dataset, "a data set")
    if not (is_whole(batch_size) and batch_size >= 1):
        raise ValueError(f"batch_size={batch_size!r}: expected a whole number, at least 1")
    batch_size = int(batch_size)
    micro_batch_size = whole_micro_batch_size(micro_batch_size)
    check_options(model, options, "evaluate", exact)
    loader = Loader(dataset, device, workers=workers, any_label=loss is not None)
    return evaluate_batches(
        model,
        loader,
        batch_size,
        group,
        micro_batch_size=micro_batch_size,
        seed=seed,
        bfloat16=bfloat16,
        loss=loss,
        error=error,
        exact=exact,
        progress=progress,
        **options,
    )


@torch.no_grad()
def evaluate_batches(
    model: nn.Module,
    loader: Loader,
    batch_size: int,
    group: Processes,
    *,
    micro_batch_size: int | None = None,
    seed: int = 0,
    bfloat16: bool = False,
    loss: Measure | None = None,
    error: Measure | None = None,
    exact: bool = False,
    progress: bool = True,
    **options,
) -> dict:
    """:func:`evaluate` with the set's batches at hand, of which ``micro_batch_size`` images are seen at a time."""
    dataset, device = loader.dataset, loader.device
    home = device_of(model, device)  # where it computes and draws; the images may be elsewhere
    draws = torch.Generator(home).manual_seed(seed)
    batches = [list(range(i, min(i + batch_size, len(dataset)))) for i in range(0, len(dataset), batch_size)]
    shares = [group.share(len(batch)) or [0] for batch in batches]
    parts = [(batch, rows) for batch, share in zip(batches, shares, strict=True) for rows in in_parts(share, micro_batch_size)]
    mine = [[batch[row] for row in rows] for batch, rows in parts]
    logits, labels, warned = None, None, False
    bar = tqdm(parts, desc="test", disable=not progress, unit="batch", leave=False)
    loaded = loader.batches(mine)
    with evaluating(model):
        for (batch, rows), numbers, (images, targets) in zip(bar, mine, loaded, strict=True):
            if rows[0] < group.world:  # the first of a batch; the others draw their share of the same random numbers
                at_first = draws.get_state()
            draws.set_state(at_first)
            with group.drawing(draws, rows, len(batch)), torch.autocast(home.type, torch.bfloat16, enabled=bfloat16):
                try:
                    out = model.exact(images, **options) if exact else model(images, generator=draws, **options)
                except (ValueError, RuntimeError) as problem:
                    if isinstance(problem, ValueError):
                        refuse_pixels(images, numbers)
                    if (of_set := of_images(problem, numbers)) is problem:
                        raise
                    raise of_set from problem
            answered = check_output(model, out, len(numbers)).float()
            if not warned and (device.type == "cpu" or logits is None):
                warned = warn_of_range(images, model, first=logits is None and len(rows) == len(batch))
            if logits is None:
                logits = torch.zeros(len(dataset), answered.shape[1], dtype=torch.float32, device=device)  # whatever the default
                labels = torch.zeros(len(dataset), *targets.shape[1:], dtype=torch.float64, device=device)
                whole = torch.ones((), device=device)
                if loss is None:
                    check_labels(labels_of(dataset, targets), logits.shape[1])
            if group.rank < len(batch):
                place = slice(numbers[0], numbers[-1] + 1, group.world)  # a list would be copied to a GPU, which waits for it
                logits[place], labels[place] = answered, targets.double()
                whole *= not targets.is_floating_point()
    logits, labels, whole = group.sum(logits), group.sum(labels), group.sum(whole).item() == group.world
    labels = labels.long() if whole else labels.float()
    on_device = logits, labels  # where a loss of the caller's may have tensors of its own
    logits, labels = logits.cpu(), labels.cpu()
    if bad := no_answer(logits).nonzero()[:, 0].tolist():
        some = ", ".join(map(str, bad[:5])) + ", …" * (len(bad) > 5)
        raise FloatingPointError(f"logits that are not finite for {len(bad)} of {len(logits)} images: number {some} of the set")
    found = dict(n=len(labels), labels=labels, logits=logits)
    if loss is None:
        check_labels(labels, logits.shape[1])
        predicted, classes = logits.argmax(1), logits.shape[1]
        confusion = torch.bincount(classes * labels + predicted, minlength=classes**2).view(classes, classes)
        there = confusion.sum(1) > 0
        right = confusion.diagonal()[there] / confusion.sum(1)[there]
        found |= dict(loss=F.cross_entropy(logits, labels).item(), confusion=confusion, predicted=predicted)
        found |= dict(balanced_error=1 - right.double().mean().item())
    else:
        losses = measured(loss, "loss", *on_device)
        found |= dict(loss=losses.double().mean().item())
        if not math.isfinite(found["loss"]):
            refuse_missing(None, labels, logits, losses, range(len(labels)))
    if error is not None:
        errors = measured(error, "error", *on_device).cpu().double()
        found |= dict(error=errors.mean().item(), stderr=_stderr(errors))
    elif loss is None:
        share = (predicted != labels).double().mean().item()
        found |= dict(error=share, stderr=math.sqrt(share * (1 - share) / len(labels)))
    return found


def _stderr(values: Float[Tensor, " n"]) -> float:
    """Standard error of the mean, NaN of a single value."""
    return values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
