"""Training a model that classifies large images, and measuring it.

The loss is the paper's, cross-entropy minus λ times the entropy of the attention (eq. 21).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from atslib.estimators import entropy
from atslib.models import Output


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
        epochs: passes over the training set.
        batch_size: images per step; the last, smaller batch of an epoch is used too.
        learning_rate: of Adam, at the start.
        schedule: ``"constant"``, as in the paper, or ``"cosine"`` down to zero at the end.
        entropy_weight: λ of eq. 21.
        clip_norm: gradients longer than this are shortened to it; None for never.
        bfloat16: run convolutions and matrix products in bfloat16 (autocast); weights and the estimator stay float32.
        seed: of initial weights (where the caller seeds them with it), order of images, draws of locations.
    """

    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 1e-3
    schedule: str = "constant"
    entropy_weight: float = 0.01
    clip_norm: float | None = 1.0
    bfloat16: bool = True
    seed: int = 0

    def __post_init__(self):
        if self.schedule not in ("constant", "cosine"):
            raise ValueError(f"schedule={self.schedule!r}: expected 'constant' or 'cosine'")
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(f"epochs={self.epochs}, batch_size={self.batch_size}: expected at least 1 each")


def attention_loss(
    out: Output, labels: Int[Tensor, " B"], entropy_weight: float = 0.01
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The loss of eq. 21, and the cross-entropy in it.

    .. math::  \\mathcal L' = \\mathrm{CE}(\\text{logits}, y) - \\lambda\\, H(a)
    """
    cross_entropy = F.cross_entropy(out.logits.float(), labels)
    return cross_entropy - entropy_weight * entropy(out.log_attention).mean(), cross_entropy


def train(
    model: nn.Module,
    train_set: Dataset,
    test_set: Dataset | None,
    settings: Settings,
    *,
    checkpoint: str | os.PathLike | None = None,
    max_seconds: float = math.inf,
    device: str | torch.device = "cpu",
    progress: bool = True,
    on_epoch: Callable[[dict], None] | None = None,
) -> list[dict]:
    """Train ``model`` in place and return its curve, one dict an epoch.

    Each dict holds ``epoch``, ``seconds`` (of training so far, tests not counted), ``train_loss`` (cross-entropy, mean over
    the epoch), ``train_error``, ``entropy`` (mean, nats), and, with a test set, ``test_loss`` and ``test_error``.

    Args:
        model: called on images ``(B, C, H, W)``, returns an :class:`atslib.models.Output`.
        train_set, test_set: items ``(image, label)``.
        checkpoint: a file written whole after each epoch; where it exists, training goes on from it and, on the CPU with the
            same number of threads, gives the numbers of a run that was never interrupted.
        max_seconds: stop after the first epoch that ends later than this.
        on_epoch: called with each new dict.

    Raises:
        ValueError: a checkpoint of other settings; the difference is listed.
        FloatingPointError: the loss became NaN or infinite. The checkpoint of the last good epoch is kept.
    """
    started = time.monotonic()
    device = torch.device(device)
    model.to(device=device, memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    curve: list[dict] = []
    if checkpoint is not None and Path(checkpoint).exists():
        curve = _restore(checkpoint, model, optimiser, settings)
    steps = math.ceil(len(train_set) / settings.batch_size)

    for epoch in range(len(curve) + 1, settings.epochs + 1):
        epoch_started = time.monotonic()
        # All randomness of an epoch comes from the seed and its number, so that it does not matter where a run resumes.
        shuffle = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
        draws = torch.Generator(device).manual_seed(settings.seed * 1_000_003 + epoch)
        loader = DataLoader(train_set, settings.batch_size, shuffle=True, generator=shuffle)
        model.train()
        sums = torch.zeros(3, dtype=torch.float64)
        seen = 0
        bar = tqdm(loader, desc=f"epoch {epoch}/{settings.epochs}", disable=not progress, unit="batch", leave=False)
        for step, (images, labels) in enumerate(bar):
            if settings.schedule == "cosine":
                done = ((epoch - 1) * steps + step) / (settings.epochs * steps)
                optimiser.param_groups[0]["lr"] = settings.learning_rate * (1 + math.cos(math.pi * done)) / 2
            images, labels = images.to(device, non_blocking=True), labels.to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.bfloat16):
                out = model(images, generator=draws)
            loss, cross_entropy = attention_loss(out, labels, settings.entropy_weight)
            batch = torch.stack([cross_entropy.detach(), _error(out, labels), entropy(out.log_attention.detach()).mean()])
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"loss is {loss.item()} in epoch {epoch}, step {step}: try a lower learning rate than "
                    f"{settings.learning_rate} or a tighter clip_norm than {settings.clip_norm}"
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            if settings.clip_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
            optimiser.step()
            sums += batch.double().cpu() * len(labels)
            seen += len(labels)
            loss_now, error_now, entropy_now = (sums / seen).tolist()
            bar.set_postfix(loss=f"{loss_now:.3f}", error=f"{error_now:.3f}", entropy=f"{entropy_now:.2f}")
        seconds = time.monotonic() - epoch_started + (curve[-1]["seconds"] if curve else 0)
        entry = dict(epoch=epoch, seconds=round(seconds, 1), train_loss=loss_now, train_error=error_now, entropy=entropy_now)
        if test_set is not None:
            measured = evaluate(
                model, test_set, settings.batch_size, bfloat16=settings.bfloat16, device=device, progress=progress
            )
            entry.update(test_loss=measured["loss"], test_error=measured["error"])
        curve.append(entry)
        if checkpoint is not None:
            _save(checkpoint, model, optimiser, settings, curve)
        if on_epoch is not None:
            on_epoch(entry)
        if time.monotonic() - started > max_seconds:
            break
    return curve


@torch.no_grad()
def evaluate(
    model: nn.Module,
    dataset: Dataset,
    batch_size: int = 32,
    *,
    seed: int = 0,
    bfloat16: bool = False,
    device: str | torch.device = "cpu",
    progress: bool = True,
    **options,
) -> dict:
    """Error and loss of ``model`` on ``dataset``.

    ``options`` go to the model's call (``n_patches=50``, say).

    Returns:
        ``error`` (share of images answered wrongly), ``loss`` (cross-entropy), ``stderr`` (of the error, binomial), ``n``
        (images), ``predicted`` and ``labels`` (tensors, in the set's order).
    """
    device = torch.device(device)
    was_training = model.training
    model.eval()
    draws = torch.Generator(device).manual_seed(seed)
    logits, labels = [], []
    for images, targets in tqdm(
        DataLoader(dataset, batch_size), desc="test", disable=not progress, unit="batch", leave=False
    ):
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            out = model(images.to(device), generator=draws, **options)
        logits.append(out.logits.float().cpu())
        labels.append(targets)
    model.train(was_training)
    logits, labels = torch.cat(logits), torch.cat(labels)
    predicted = logits.argmax(1)
    error = (predicted != labels).double().mean().item()
    return dict(
        error=error,
        loss=F.cross_entropy(logits, labels).item(),
        stderr=math.sqrt(error * (1 - error) / len(labels)),
        n=len(labels),
        predicted=predicted,
        labels=labels,
    )


def _error(out: Output, labels: Tensor) -> Tensor:
    return (out.logits.detach().argmax(1) != labels).float().mean()


def _save(path, model, optimiser, settings, curve) -> None:
    """Write beside and rename: a checkpoint is whole or not there."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    state = dict(model=model.state_dict(), optimiser=optimiser.state_dict(), settings=asdict(settings), curve=curve)
    torch.save(state, part)
    os.replace(part, path)


def _restore(path, model, optimiser, settings) -> list[dict]:
    state = torch.load(path, map_location="cpu", weights_only=True)
    ours = asdict(settings)
    differ = [f"{k} was {state['settings'].get(k)!r}, is {v!r}" for k, v in ours.items() if state["settings"].get(k) != v]
    if differ:
        raise ValueError(f"{path} is a checkpoint of other settings ({'; '.join(differ)}): delete it or train as it says")
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return state["curve"]
