"""Training a model that classifies large images, and measuring it.

The loss is the paper's, cross-entropy minus λ times the entropy of the attention (eq. 21). A run can be stopped at any moment,
by a signal, a time limit or a power cut, and goes on from its checkpoint to the numbers it would have reached anyway.
"""

from __future__ import annotations

import dis
import hashlib
import inspect
import math
import os
import re
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import CodeType

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from atslib.checkpoints import load_checkpoint, save_checkpoint
from atslib.loading import LabelledImages, Loader, check_classes, epoch_batches, known_labels, seed_for
from atslib.models import AttentionSampling, Output, evaluating
from atslib.patches import ImageSource
from atslib.precision import has_bfloat16
from atslib.processes import Processes

# Steps between two looks at the numbers: a look makes the host wait for a GPU, and costs nothing on a CPU.
_LOOK_EVERY = {"cpu": 1, "cuda": 16}

# Of logits and labels of a batch, a number for each image.
Measure = Callable[[Float[Tensor, "B outputs"], Shaped[Tensor, "B *target"]], Float[Tensor, " B"]]


@dataclass(frozen=True)
class Settings:
    """How to train: all that changes the result.

    Attributes:
        epochs: passes over the training set.
        batch_size: images per step, of all processes together; the last, smaller batch of an epoch is used too.
        learning_rate: of Adam, at the start.
        schedule: ``"constant"``, as in the paper; ``"cosine"`` down to zero at the end; ``"step"``, a tenth after each of the
            ``milestones``, as in the released code for the speed limits.
        milestones: epochs after which ``"step"`` divides the learning rate by ten.
        entropy_weight: λ of eq. 21.
        clip_norm: gradients longer than this are shortened to it; None for never.
        class_weights: of each class's cross-entropy; None for one each. See :func:`attention_loss`.
        balanced: show every class as often as any other, instead of weighing their cross-entropy: the same loss on average, for
            fewer visits where a large class has little to teach. The training set then needs ``labels``.
        bfloat16: run convolutions and matrix products in bfloat16 (autocast); weights and the estimator stay float32. None where
            it makes them faster, see :func:`atslib.precision.has_bfloat16`.
        test_every: epochs between two tests; the last of ``epochs`` is always tested.
        seed: of initial weights (where the caller seeds them with it), order of images, draws of locations, augmentation. What
            networks draw for themselves, dropout, comes from PyTorch's global generator (``torch.manual_seed``).
    """

    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 1e-3
    schedule: str = "constant"
    milestones: tuple[int, ...] = ()
    entropy_weight: float = 0.01
    clip_norm: float | None = 1.0
    class_weights: tuple[float, ...] | None = None
    balanced: bool = False
    bfloat16: bool | None = None
    test_every: int = 1
    seed: int = 0

    def __post_init__(self):
        # Plain numbers, also where an array's or a tensor's elements were given: a checkpoint holds nothing else.
        for name in ("epochs", "batch_size", "test_every", "seed"):
            if (value := getattr(self, name)) != int(value):
                raise ValueError(f"{name}={value}: expected a whole number")
            object.__setattr__(self, name, int(value))
        if self.seed < 0:
            raise ValueError(f"seed={self.seed}: expected at least 0")
        for name in ("learning_rate", "entropy_weight"):
            object.__setattr__(self, name, float(getattr(self, name)))
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)}: expected a finite number")
        if any(milestone != int(milestone) for milestone in self.milestones):
            raise ValueError(f"milestones={self.milestones}: expected whole numbers of epochs")
        object.__setattr__(self, "milestones", tuple(map(int, self.milestones)))
        if self.class_weights is not None:
            object.__setattr__(self, "class_weights", tuple(map(float, self.class_weights)))
            if not all(0 <= weight < math.inf for weight in self.class_weights):
                raise ValueError(f"class_weights={self.class_weights}: expected finite numbers of at least 0")
        if self.clip_norm is not None:
            object.__setattr__(self, "clip_norm", float(self.clip_norm))
        if self.schedule not in ("constant", "cosine", "step"):
            raise ValueError(f"schedule={self.schedule!r}: expected 'constant', 'cosine' or 'step'")
        if (self.schedule == "step") != bool(self.milestones):
            raise ValueError(f"schedule={self.schedule!r} with milestones={self.milestones}: expected them for 'step' only")
        if self.epochs < 1 or self.batch_size < 1 or self.test_every < 1:
            raise ValueError(
                f"epochs={self.epochs}, batch_size={self.batch_size}, test_every={self.test_every}: expected at least 1 each"
            )
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm={self.clip_norm}: expected a positive number, or None for no clipping")
        if self.balanced and self.class_weights is not None:
            raise ValueError("balanced=True with class_weights: expected one of them, together they count small classes twice")

    def learning_rate_at(self, epochs_done: float) -> float:
        """The learning rate after so many epochs, whole or not.

        >>> [round(Settings(schedule="step", milestones=(5,)).learning_rate_at(done), 6) for done in (4.9, 5)]
        [0.001, 0.0001]
        """
        if self.schedule == "cosine":
            return self.learning_rate * (1 + math.cos(math.pi * epochs_done / self.epochs)) / 2
        return self.learning_rate * 0.1 ** sum(epochs_done >= milestone for milestone in self.milestones)

    def in_bfloat16(self, device: str | torch.device) -> bool:
        """Whether training on this device computes in bfloat16."""
        return has_bfloat16(device) if self.bfloat16 is None else self.bfloat16


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

    Where an image has several labels, or a number is to be predicted, give :func:`train` a ``loss``. In a loop of your own,
    write another and reward the entropy in it:
    ``binary_cross_entropy_with_logits(out.logits, y) - entropy_weight * out.entropy().mean()``.
    """
    _check_kind(labels, out.logits)
    labels = labels.long()
    if not isinstance(class_weights, Tensor | None):
        class_weights = torch.tensor(class_weights, dtype=torch.float32, device=labels.device)
    if not torch.compiler.is_compiling():
        _check_labels(labels if labels.device.type == "cpu" else labels[:0], out.logits.shape[1], class_weights)
    cross_entropy = _cross_entropy(out, labels, class_weights)
    return (cross_entropy - entropy_weight * _spread(out, cross_entropy)).mean(), cross_entropy.mean()


def train(
    model: nn.Module,
    train_set: Dataset,
    test_set: Dataset | None,
    settings: Settings,
    *,
    checkpoint: str | os.PathLike | None = None,
    save_every: float = 300,
    max_seconds: float = math.inf,
    device: str | torch.device | None = None,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    loss: Measure | None = None,
    error: Measure | None = None,
    optimiser: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
    workers: int = 0,
    compile: bool = False,
    progress: bool = True,
    on_epoch: Callable[[dict], None] | None = None,
    on_step: Callable[[int, int, int], None] | None = None,
    processes: Processes | None = None,
) -> list[dict]:
    """Train ``model`` in place and return its curve, one dict an epoch; fewer than ``settings.epochs`` if it was stopped.

    Each dict holds ``epoch``, ``seconds`` (of training so far, tests not counted), ``train_loss`` (cross-entropy, mean over
    the epoch), ``train_error``, ``entropy`` (mean, nats; not of methods without attention), and, in epochs with a test,
    ``test_loss`` and ``test_error``. With another ``loss`` it stands in place of the cross-entropy, and errors are there where
    ``error`` says what they are. Of training, class weights and the images that a balanced epoch repeats count; the test has
    each image once, unweighted, so that with these the two losses do not compare, and the least test loss may be that of a model
    which answers the largest class. Without a ``loss`` of your own there is ``test_balanced_error`` then, to choose an epoch by.

    Args:
        model: called on images ``(B, C, H, W)`` and ``generator``, returns an :class:`atslib.models.Output`. It is put into
            training mode, but for parts that are in evaluation mode while the model as a whole is not: so a frozen network keeps
            the statistics of its batch normalisation. Its weights lie channels last in memory afterwards: ``safetensors`` wants
            ``.contiguous()`` of each.
        train_set, test_set: items ``(image, label)``; uint8 images stay uint8 on their way to the model. An
            :class:`atslib.loading.InMemory` is read from where it lies.
        settings: how long, how fast, with which loss; see :class:`Settings`.
        checkpoint: a file, written whole after each epoch, every ``save_every`` seconds, and when the run is stopped by
            ``max_seconds``, SIGTERM or Ctrl-C (one that comes in the last test does what it usually does, after it). Where it
            exists, training goes on from it, in mid-epoch if need be, and, on the CPU with the same number of threads, gives
            bit for bit the numbers of a run that was never interrupted. It goes on in the precision in which it was begun. It
            is also written before each test, so that what a test raises costs no epoch. A run that is done trains no more; it
            goes on where the settings now ask for more epochs, to the numbers of a run that was to have so many from the
            beginning (its last epoch has had a test then, whatever ``test_every`` says); with the schedule ``"cosine"``, where
            these are other epochs, that is refused. Of the data it knows the number of images and the labels that the set has as
            an attribute, not the pixels: after a change of what is read, begin anew.
        max_seconds: stop after the first step that ends later than this.
        device: where to train; the model is moved there. The one on which the model is, if none is given.
        augment: called with one image ``(1, C, H, W)`` on the device and a generator on the CPU, seeded for this image and
            epoch; returns the changed image. Its ``repr`` counts as a setting, addresses in memory left out; of a function also
            its code (in one version of Python: another is refused), and numbers and words that are its defaults or its closure's.
            Other things that it looks up, functions that it calls, say, a checkpoint does not know.
        loss: in place of the cross-entropy, where images have several labels or a number is to be predicted: called with the
            logits ``(B, outputs)`` in float32 and the labels ``(B, …)`` on the device, returns a number for each image
            ``(B,)``; in a test it is called once, with all images'. Labels then may be numbers or arrays of one shape: integers
            come as int64, all others as float32. The entropy is rewarded as before. It counts as a setting as
            ``augment`` does. (Of a single output take ``logits[:, 0]``: ``(B, 1)`` less ``(B,)`` would be ``(B, B)``.)
            :func:`atslib.prediction.predict` does not know it: tell it what the outputs mean with ``answer``, or it takes several
            for the classes of a softmax.
        error: called as ``loss`` is; what is reported as the error of each image. None: whether the largest logit is another
            class's, and nothing where ``loss`` is given.
        optimiser: makes another than Adam for the model, with weight decay, say, or a learning rate for each of several groups of
            parameters. Each group's rate then is that which the optimiser begins with, times what the schedule leaves of
            ``settings.learning_rate``. What it makes counts as a setting: its kind, and the options of its groups. Parameters
            that it leaves out stay as they are; ``clip_norm`` is the length of the gradient of those that it has.
        workers: processes that read images ahead, as many again for the test set; they stay until the training ends. Random
            numbers that the set itself draws in them are seeded by batch; without workers they are not. Those that depend on the
            image alone belong into ``augment``.
        compile: run the model through ``torch.compile``; pays off on a GPU and in long runs of images of one size: each other
            size is compiled anew.
        progress: show a bar for each epoch.
        on_epoch: called with each new dict, in the first process, before the checkpoint is written: where a run is stopped in it,
            it is called once more with the same epoch. A place to keep a copy of the weights of the best epoch, and to raise
            :class:`StopTraining` when enough is enough.
        on_step: called after each step with the epoch, the step in it (both from 1) and the steps of an epoch, in the first
            process; the model then has its new weights.
        processes: where there are several; ``device`` then is theirs.

    Raises:
        ValueError: a checkpoint of other settings, of other labels (of an :class:`atslib.loading.LabelledImages`), or of a model
            with other parts frozen; the differences are listed. A checkpoint in a later epoch than is asked for.
            ``balanced`` and a set without ``labels``. A training set without images, or a loader in place of a set. Labels that
            are no class of the model (on a GPU only those of the first batch, if the set is no
            :class:`atslib.loading.LabelledImages`), class weights that are not one a class, or beside ``loss``. A ``loss`` or
            ``error`` that returns anything but a number for each image. Several processes and a model with batch normalisation.
            An optimiser in place of a function that makes one, or, with a checkpoint, one that holds parameters which are not the
            model's.
        FloatingPointError: the loss or the gradient became NaN or infinite. An image of that step with pixels or a label that are
            not finite is named (on a GPU only if it is among the last of several steps). The last good checkpoint is kept.
    """
    started = last_saved = time.monotonic()
    group = processes or Processes(_device_of(model) if device is None else device)
    device, first_process = group.device, group.rank == 0
    progress = progress and first_process
    _check_set(train_set, "a training set")
    if loss is not None and settings.class_weights is not None:
        raise ValueError("class_weights and loss: expected one of them, the weights are the cross-entropy's")
    if test_set is not None:
        _check_set(test_set, "a test set")
    alone = any(isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    if alone and group.world > 1:
        raise ValueError(
            f"batch normalisation in {group.world} processes: each would normalise by its own share of a batch, and keep "
            "statistics of its own; use one process, another normalisation, or on GPUs nn.SyncBatchNorm.convert_sync_batchnorm"
        )
    bfloat16 = settings.in_bfloat16(device)
    model.to(device)
    for network in model.children():
        # Convolutions like the channels last; on a CPU, group normalisation is ten times slower that way.
        if device.type != "cpu" or not any(isinstance(module, nn.GroupNorm) for module in network.modules()):
            network.to(memory_format=torch.channels_last)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"{type(model).__name__} has no parameter with requires_grad: there is nothing to train")
    if optimiser is not None and not settings.learning_rate:
        raise ValueError("learning_rate=0 with an optimiser: its rates are scaled by what the schedule leaves of this one")
    made = torch.optim.Adam(model.parameters(), lr=settings.learning_rate) if optimiser is None else _made(optimiser, model)
    if checkpoint is not None:
        _refuse_foreign(made, model)
    rates = [group["lr"] for group in made.param_groups]  # at the start
    trained = [parameter for group in made.param_groups for parameter in group["params"]]
    classes = None  # of the images, where it matters for the order in which they are shown
    if settings.balanced:
        classes = known_labels(train_set)
        if classes is None:
            raise ValueError(f"balanced=True: {type(train_set).__name__} has no attribute labels, the class of each image, (N,)")
        check_classes(classes, " for balanced=True")
    what = asdict(settings) | dict(n_train=len(train_set), augment=_named(augment), model=_how(model))
    given = dict(loss=loss, error=error)
    what |= {name: _named(function) for name, function in given.items() if function is not None}
    functions = given | dict(augment=augment)
    held = {f"{name}_holds": _holds(function) for name, function in functions.items()}
    held |= {f"{name}_code": _code(function) for name, function in functions.items()}
    what |= {name: some for name, some in held.items() if some}
    what |= dict(optimiser_settings="" if optimiser is None else _settings_of(made))
    if frozen_weights := [name for name, parameter in model.named_parameters() if not parameter.requires_grad]:
        what |= dict(frozen=hashlib.sha256(" ".join(frozen_weights).encode()).hexdigest()[:8])
    with suppress(TypeError, ValueError, RuntimeError):  # sets of other people's may call anything their labels
        if (labels := known_labels(train_set)) is not None:
            what |= dict(labels=hashlib.sha256(labels.cpu().contiguous().numpy().tobytes()).hexdigest()[:8])
    curve: list[dict] = []
    step, sums, seconds = 0, [0.0] * 5, 0.0  # of the epoch under way
    if checkpoint is not None and Path(checkpoint).exists():
        # What an epoch does depends on how many will follow only where the learning rate does.
        free = ["optimiser", *([] if settings.schedule == "cosine" else ["epochs"])]  # the first of older checkpoints
        newer = ["labels", *held, *(["optimiser_settings"] if optimiser is None else [])]  # an older one says nothing of Adam
        position = load_checkpoint(checkpoint, model, made, what, free, newer)
        begun = len(position["curve"]) + (position["step"] > 0)
        if begun > settings.epochs:
            raise ValueError(f"{checkpoint} is in epoch {begun} already, settings ask for {settings.epochs} epochs")
        curve, step, sums, seconds = (position[key] for key in ("curve", "step", "sums", "seconds"))
        bfloat16 = position["bfloat16"]  # in one precision to the end, whatever this machine would choose
        if progress and len(curve) == settings.epochs:
            tqdm.write(f"{checkpoint}: all {settings.epochs} epochs are done, nothing is trained", file=sys.stderr)

    def save() -> None:
        nonlocal last_saved
        if checkpoint is not None and first_process:
            position = dict(curve=curve, step=step, sums=sums, seconds=seconds, bfloat16=bfloat16)
            save_checkpoint(checkpoint, model, made, what, position)
        group.wait()  # or another process might look for the checkpoint before it is there
        last_saved = time.monotonic()

    def not_finite(epoch: int, step: int) -> FloatingPointError:
        where = f"epoch {epoch}, step {step}" + ("" if device.type == "cpu" else " or shortly before")
        advice = f"try a lower learning rate than {settings.learning_rate} or a tighter clip_norm than {settings.clip_norm}"
        if (epoch, step) == (1, 1):  # no step has been made yet that could have been too large
            advice = "look at the images, the labels and the loss"
        return FloatingPointError(
            f"loss or gradient is not finite in {where}: {advice}"
            + (f"; {checkpoint} is of a good step before it" if checkpoint and Path(checkpoint).exists() else "")
        )

    class_weights = None if settings.class_weights is None else torch.tensor(settings.class_weights, device=device)
    train_loader, test_loader = (
        None if dataset is None else Loader(dataset, device, workers=workers, any_label=loss is not None)
        for dataset in (train_set, test_set)
    )
    forward = group.prepare(torch.compile(model) if compile else model)
    draws = torch.Generator(device)
    steps = math.ceil(len(train_set) / settings.batch_size)
    speed = _Speed(settings.epochs * len(train_set))
    has_error = loss is None or error is not None
    known = False  # that the labels are classes of the model
    warned = False  # of the range of the images
    attends = any("entropy" in entry for entry in curve) or sums[2] > 0  # whether the model has attention
    frozen = [module for module in model.modules() if not module.training] if model.training else []
    _warn_of_moving_statistics(model, frozen)

    with _StopSignals(listen=checkpoint is not None) as signals:
        for epoch in range(len(curve) + 1, settings.epochs + 1):
            began = time.monotonic() - seconds
            batches = epoch_batches(len(train_set), settings.batch_size, settings.seed, epoch, classes)
            # A process without an image in the last batch works on another's, which then counts nothing.
            shares = [group.share(len(batch)) or [0] for batch in batches]
            mine = [[batch[row] for row in rows] for batch, rows in zip(batches, shares, strict=True)]
            # In several processes each adds up its own images; what a checkpoint says is the sum.
            tally = torch.tensor(sums if first_process else [0.0] * 5, dtype=torch.float64, device=device)
            model.train()
            for module in frozen:
                module.training = False
            bar = tqdm(
                total=len(train_set),
                initial=sum(map(len, batches[:step])),
                desc=f"epoch {epoch}/{settings.epochs}",
                disable=not progress,
                unit="image",
                leave=False,
            )
            loaded = train_loader.batches(mine[step:], seed=seed_for("workers", settings.seed, epoch), first=step)
            for batch, rows, numbers, (images, labels) in zip(batches[step:], shares[step:], mine[step:], loaded, strict=True):
                scheduled = settings.learning_rate_at(epoch - 1 + step / steps)
                for parameters, rate in zip(made.param_groups, rates, strict=True):
                    parameters["lr"] = scheduled if optimiser is None else rate * scheduled / settings.learning_rate
                # Draws and augmentation come from the seed and the step's place, so that it does not matter where a run was
                # stopped, or how many processes share the batch. (Dropout, if a network has it, is PyTorch's own.)
                draws.manual_seed(seed_for("draws", settings.seed, epoch, step))
                if augment is not None:
                    # A balanced epoch may show an image several times, even in one batch: each time another change.
                    places = [(step, row) if settings.balanced else () for row in rows]
                    images = _augmented(images, numbers, places, augment, settings.seed, epoch)
                with (
                    group.drawing(draws, rows, len(batch)),
                    torch.autocast(device.type, torch.bfloat16, enabled=bfloat16),
                ):
                    try:
                        out = forward(images, generator=draws)
                    except ValueError:
                        # Weights that are not finite, or so large that attention is not, by a step too large: that is what is
                        # wrong, and not the image, which the message would ask about.
                        if tally[4] or ((curve or step) and not _finite_attention(model, images)):
                            raise not_finite(epoch, step + 1) from None
                        _refuse_pixels(images, numbers)
                        raise
                _check_output(model, out)
                attends |= out.log_attention is not None
                if not warned and (device.type == "cpu" or not (curve or step)):
                    warned = _warn_of_range(images, model, first=not (curve or step))
                # Of the whole set where it tells them, and else batch by batch on the CPU; on a GPU the host would have to wait.
                if loss is None and (not known or device.type == "cpu"):
                    for told in (labels,) if known else (_labels_of(train_set, labels), _labels_of(test_set, labels)):
                        _check_labels(told, out.logits.shape[1], class_weights)
                    known = True
                if loss is None:
                    missed = _cross_entropy(out, labels, class_weights)  # (b,)
                else:
                    missed = _measured(loss, "loss", out.logits, labels)
                    if not (curve or step):
                        _warn_of_mixed_images(loss, out.logits, labels, missed)
                spread = _spread(out, missed)
                counted = float(group.rank < len(batch))
                # Gradients are averaged over processes: times their number, it is the mean over the batch.
                objective = (missed - settings.entropy_weight * spread).sum() * counted * group.world / len(batch)
                made.zero_grad(set_to_none=True)
                model.zero_grad(set_to_none=True)  # of parameters, too, that the optimiser leaves out
                group.backward(objective)
                norm = nn.utils.clip_grad_norm_(trained, settings.clip_norm or math.inf)
                wrong = _errors(error, loss, out.logits.detach(), labels)
                count, bad = torch.tensor(len(rows)), ~(objective.detach().isfinite() & norm.isfinite())
                batch_tally = [missed.detach().sum(), wrong.sum(), spread.detach().sum(), count, bad]
                tally += counted * torch.stack([part.to(device, torch.float64) for part in batch_tally])

                step += 1
                stopping = saving = False
                if step % _LOOK_EVERY.get(device.type, 1) == 0 or step == steps:
                    now = time.monotonic()
                    wishes = [signals.received is not None or now - started > max_seconds, now - last_saved > save_every]
                    *sums, stop, due = group.sum(torch.cat([tally, tally.new_tensor(wishes)])).tolist()
                    stopping, saving = bool(stop), bool(due)
                    if sums[4]:
                        _refuse_missing(images, labels, out.logits, missed, numbers)
                        raise not_finite(epoch, step)
                made.step()
                if on_step is not None and first_process:
                    on_step(epoch, step, steps)
                speed.add(len(batch))
                if progress:
                    bar.update(len(batch))
                    bar.set_postfix(_shown(out, sums, speed, has_error, left=speed.left((epoch - 1) * len(train_set) + bar.n)))
                if stopping or saving:
                    seconds = time.monotonic() - began
                    save()
                if stopping:
                    bar.close()
                    signals.heeded = True
                    return curve
            bar.close()
            loss_sum, wrong, spread, seen, _ = sums
            entry = dict(epoch=epoch, seconds=round(time.monotonic() - began + _before(curve), 3))
            entry.update(train_loss=loss_sum / seen)
            if has_error:
                entry.update(train_error=wrong / seen)
            if attends:
                entry.update(entropy=spread / seen)
            if test_set is not None and (epoch % settings.test_every == 0 or epoch == settings.epochs):
                seconds = entry["seconds"] - _before(curve)
                save()
                measured = _evaluate(
                    *(model, test_loader, settings.batch_size, group),
                    bfloat16=bfloat16,
                    loss=loss,
                    error=error,
                    progress=progress,
                )
                uneven = settings.balanced or settings.class_weights is not None
                reported = ("loss", "error", *(["balanced_error"] if uneven else []))
                entry.update({f"test_{key}": measured[key] for key in reported if key in measured})
            curve.append(entry)
            enough = torch.zeros((), device=device)
            if on_epoch is not None and first_process:
                try:
                    on_epoch(entry)
                except StopTraining:
                    enough += 1
            step, sums, seconds = 0, [0.0] * 5, 0.0
            save()
            if group.sum(enough):  # with or without `on_epoch`, which may be given to the first process alone
                break
    return curve


class StopTraining(Exception):
    """Raised in ``on_epoch``: :func:`train` writes its checkpoint and returns the curve so far.

    Where it is called again with this checkpoint, it goes on with the next epoch. The epoch in which it was raised has had no
    test of its own, unless ``test_every`` gave it one.
    """


def evaluate(
    model: nn.Module,
    dataset: Dataset,
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
    **options,
) -> dict:
    """Error and loss of ``model`` on ``dataset``, the model in evaluation mode and without gradients.

    Args:
        model, dataset: as in :func:`train`.
        batch_size: images at a time.
        seed: of the draws of locations: with the same images in the same order and batches of the same size, the same seed
            looks at the same patches. What is drawn for an image depends on those before it; :func:`predict` draws for each by
            itself.
        bfloat16: compute in it, as :func:`train` does where it trains in it.
        device: where to; the model's own if none is given. The model is not moved.
        loss, error: in place of the cross-entropy, and of being wrong, as in :func:`train`.
        exact: ask the full model, :meth:`atslib.models.AttentionSampling.exact`, which looks everywhere: for a few images.
        workers: processes that read images ahead.
        processes: share the images where there are several, and all get the answer.
        options: for the model's call, ``n_patches=50``, say, or that of ``exact``, ``chunk=100``.

    Returns:
        ``error`` (share of images answered wrongly), ``loss`` (cross-entropy), ``stderr`` (of the error, binomial,
        :math:`\\sqrt{e (1 - e) / n}`: 0 where all or none are wrong, which is not to say that the error is known),
        ``balanced_error`` (the mean over the classes that occur of the share of theirs that is answered wrongly: 1 − 1 / classes
        for whoever answers always the same), ``n`` (images), ``confusion`` (images by true and by answered class),
        ``predicted``, ``labels`` and ``logits`` (tensors, in the set's order). With a ``loss``: its mean, ``n``, ``labels``
        and ``logits``. With an ``error``: its mean, and as ``stderr`` that of the mean, :math:`s / \\sqrt n`.

    Raises:
        ValueError: a set without images, or a loader in place of one; labels that are no class of the model; a ``loss`` or
            ``error`` that returns anything but a number for each image; ``exact`` of a model without; what the model raises.
        FloatingPointError: logits with NaN or +inf, or all -inf; a ``loss`` that is not finite where a label is not.
    """
    group = processes or Processes(_device_of(model) if device is None else device)
    device = group.device
    _check_set(dataset, "a data set")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: expected at least 1")
    check_options(model, options, "evaluate", exact)
    loader = Loader(dataset, device, workers=workers, any_label=loss is not None)
    return _evaluate(
        *(model, loader, batch_size, group),
        seed=seed,
        bfloat16=bfloat16,
        loss=loss,
        error=error,
        exact=exact,
        progress=progress,
        **options,
    )


@torch.no_grad()
def _evaluate(
    model: nn.Module,
    loader: Loader,
    batch_size: int,
    group: Processes,
    *,
    seed: int = 0,
    bfloat16: bool = False,
    loss: Measure | None = None,
    error: Measure | None = None,
    exact: bool = False,
    progress: bool = True,
    **options,
) -> dict:
    """:func:`evaluate` with the set's batches at hand."""
    dataset, device = loader.dataset, loader.device
    draws = torch.Generator(device).manual_seed(seed)
    batches = [list(range(i, min(i + batch_size, len(dataset)))) for i in range(0, len(dataset), batch_size)]
    shares = [group.share(len(batch)) or [0] for batch in batches]
    mine = [[batch[row] for row in rows] for batch, rows in zip(batches, shares, strict=True)]
    logits, labels, warned = None, None, False
    bar = tqdm(batches, desc="test", disable=not progress, unit="batch", leave=False)
    loaded = loader.batches(mine)
    with evaluating(model):
        for batch, rows, numbers, (images, targets) in zip(bar, shares, mine, loaded, strict=True):
            with group.drawing(draws, rows, len(batch)), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                try:
                    out = model.exact(images, **options) if exact else model(images, generator=draws, **options)
                except ValueError:
                    _refuse_pixels(images, numbers)
                    raise
            _check_output(model, out)
            if not warned and (device.type == "cpu" or logits is None):
                warned = _warn_of_range(images, model, first=logits is None, stacklevel=5)
            if logits is None:
                logits = torch.zeros(len(dataset), out.logits.shape[1], device=device)
                labels = torch.zeros(len(dataset), *targets.shape[1:], dtype=torch.float64, device=device)
                whole = torch.ones((), device=device)
                if loss is None:
                    _check_labels(_labels_of(dataset, targets), logits.shape[1])
            if group.rank < len(batch):
                logits[numbers], labels[numbers] = out.logits.float(), targets.double()
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
        _check_labels(labels, logits.shape[1])
        predicted, classes = logits.argmax(1), logits.shape[1]
        confusion = torch.bincount(classes * labels + predicted, minlength=classes**2).view(classes, classes)
        there = confusion.sum(1) > 0
        right = confusion.diagonal()[there] / confusion.sum(1)[there]
        found |= dict(loss=F.cross_entropy(logits, labels).item(), confusion=confusion, predicted=predicted)
        found |= dict(balanced_error=1 - right.double().mean().item())
    else:
        losses = _measured(loss, "loss", *on_device)
        found |= dict(loss=losses.double().mean().item())
        if not math.isfinite(found["loss"]):
            _refuse_missing(None, labels, logits, losses, range(len(labels)))
    if error is not None:
        errors = _measured(error, "error", *on_device).cpu().double()
        found |= dict(error=errors.mean().item(), stderr=_stderr(errors))
    elif loss is None:
        share = (predicted != labels).double().mean().item()
        found |= dict(error=share, stderr=math.sqrt(share * (1 - share) / len(labels)))
    return found


def no_answer(logits: Float[Tensor, "B outputs"]) -> Bool[Tensor, " B"]:
    """Logits that say nothing: NaN would be counted as an answer, of the class that comes first. A class may be -inf."""
    return ~logits.amax(1).isfinite()


def _made(optimiser: Callable[[nn.Module], torch.optim.Optimizer], model: nn.Module) -> torch.optim.Optimizer:
    """What the caller's function makes for the model."""
    kind = optimiser if isinstance(optimiser, type) else type(optimiser)
    if issubclass(kind, torch.optim.Optimizer):
        call = f"{kind.__name__}(model.parameters())"
        raise ValueError(f"optimiser {kind.__name__}: expected a function of the model that makes one, lambda model: {call}")
    made = optimiser(model)
    if not isinstance(made, torch.optim.Optimizer):
        raise ValueError(f"optimiser made a {type(made).__name__}: expected a torch.optim.Optimizer")
    if isinstance(made, torch.optim.LBFGS):
        raise ValueError("optimiser LBFGS: expected one that makes a step from one gradient, such as torch.optim.AdamW")
    return made


def _refuse_foreign(optimiser: torch.optim.Optimizer, model: nn.Module) -> None:
    """Raise a ValueError for parameters that are not the model's."""
    own = set(model.parameters())
    if foreign := sum(parameter not in own for group in optimiser.param_groups for parameter in group["params"]):
        raise ValueError(
            f"optimiser with {foreign} parameters that are not the model's, which its checkpoint would not hold: make it for the "
            "model that the function is given, of which they may be a part"
        )


def _stderr(values: Float[Tensor, " n"]) -> float:
    """Standard error of the mean, NaN of a single value."""
    return values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan


def _how(model: nn.Module) -> str:
    """How a model computes: what its weights do not tell, and a checkpoint has to.

    In words for the parts that are not PyTorch's own, as a digest for all. Deep MIL's chunk changes results by rounding only and
    is left out, and so are addresses in memory.
    """
    said = [(type(part), re.sub(r", chunk=\w+| at 0x\w+", "", part.extra_repr())) for part in model.modules()]
    own = [f"{kind.__name__}({text})" for kind, text in said if text and not kind.__module__.startswith("torch.")]
    layers = "; ".join(f"{kind.__name__}({text})" for kind, text in said)
    return "; ".join([*own, f"layers {hashlib.sha256(layers.encode()).hexdigest()[:8]}"])


def _device_of(model: nn.Module) -> torch.device:
    return next(model.parameters(), torch.empty(0)).device


def _named(function: Callable | None) -> str | None:
    """What a checkpoint says of an augmentation or a loss: its ``repr``, without addresses, which no other process shares."""
    return None if function is None else re.sub(r" at 0x\w+", "", repr(function))


def _code(function: Callable | None) -> str:
    """A digest of what a function does, as this version of Python puts it; empty where it is no function of Python's."""
    if isinstance(function, partial):
        return _code(function.func)
    if not inspect.isfunction(function):
        return ""

    def said(part: object) -> str:
        if isinstance(part, CodeType):
            constants = [said(constant) for constant in part.co_consts if constant != function.__doc__]
            return repr((part.co_code, part.co_names, part.co_varnames, constants))
        if isinstance(part, frozenset):  # in an order that differs from process to process
            return repr(sorted(map(said, part)))
        return repr([said(one) for one in part]) if isinstance(part, tuple) else repr(part)

    digest = hashlib.sha256(said(function.__code__).encode()).hexdigest()[:8]
    return f"{digest} (Python {sys.version_info.major}.{sys.version_info.minor})"


def _holds(function: Callable | None) -> str:
    """The numbers and words that a function has as defaults, or has taken from where it was made and does not change."""
    if isinstance(function, partial):
        return _holds(function.func)
    if not inspect.isfunction(function):
        return ""
    holds = dict(enumerate(function.__defaults__ or ())) | (function.__kwdefaults__ or {})
    counters = {step.argval for step in dis.get_instructions(function) if step.opname == "STORE_DEREF"}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # a name that has no value yet
            holds |= {} if name in counters else {name: cell.cell_contents}
    plain = {name: value for name, value in holds.items() if isinstance(value, str | int | float | complex)}
    return repr(plain) if plain else ""


# Of an optimiser's group: the parameters, and how the same step is computed.
_NO_SETTINGS = ("params", "foreach", "fused", "capturable", "differentiable")


def _settings_of(optimiser: torch.optim.Optimizer) -> str:
    """Kind of an optimiser, and of each of its groups all but the parameters, in words."""
    groups = []
    for group in optimiser.param_groups:
        kept = {key: value for key, value in group.items() if key not in _NO_SETTINGS}
        options = {key: value.tolist() if isinstance(value, Tensor) else value for key, value in kept.items()}
        groups.append(", ".join(f"{key} {re.sub(r' at 0x[0-9A-Fa-f]+', '', str(value))}" for key, value in options.items()))
    return f"{type(optimiser).__name__}: {'; '.join(groups)}"


def _warn_of_moving_statistics(model: nn.Module, frozen: Collection[nn.Module]) -> None:
    """Of batch normalisation whose weights are frozen, and which is in training mode all the same."""
    evaluated = set(frozen)
    moving = [
        name
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module not in evaluated and module.track_running_stats
        if module.affine and not any(parameter.requires_grad for parameter in module.parameters())
    ]
    if moving:
        warnings.warn(
            f"batch normalisation with frozen weights ({moving[0]}) in training mode: its mean and variance go on moving; to "
            "keep them, call model.train() and then eval() of the frozen part, before training",
            stacklevel=3,
        )


def _check_set(dataset: Dataset, what: str) -> None:
    if isinstance(dataset, DataLoader):
        raise ValueError(f"a DataLoader for {what}: expected the set itself, loader.dataset, and workers as an argument")
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise ValueError(f"a {type(dataset).__name__} for {what}: expected a set with a length and items, (image, label) each")
    if not len(dataset):
        raise ValueError(f"{what} of 0 images: expected at least 1")


def _refuse_missing(
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
            _refuse_pixels(images[place : place + 1], numbers[place : place + 1], FloatingPointError)


def _refuse_pixels(images: Tensor | ImageSource, numbers: Sequence[int], error: type[Exception] = ValueError) -> None:
    """Raise an error that names the image of the set whose pixels are not finite, if there is one."""
    if isinstance(images, Tensor):
        for number, image in zip(numbers, images, strict=True):
            if not (finite := image.isfinite()).all():
                share = 1 - finite.double().mean().item()
                raise error(
                    f"image {number} of the set: {share:.2g} of its pixels are NaN or infinite; give what is not known a number, "
                    "the model's fill, say"
                )


def _check_output(model: nn.Module, out: object) -> None:
    if not hasattr(out, "logits"):
        raise ValueError(
            f"{type(model).__name__} returned a {type(out).__name__}: expected an atslib.models.Output, with logits, and with "
            "log_attention=None where there is no attention"
        )


def check_options(model: nn.Module, options: dict, function: str, exact: bool = False) -> None:
    """Raise a TypeError for a word that neither a function nor the model's call (or that of ``exact``) knows."""
    if exact and not hasattr(model, "exact"):
        raise ValueError(f"exact=True for a {type(model).__name__}: it has no method exact, and draws nothing")
    accepted = inspect.signature(model.exact if exact else model.forward).parameters
    unknown = [name for name in options if name not in accepted]
    if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values()):
        hint = "; it is called workers here" if unknown[0] == "num_workers" else ""
        called = f"{type(model).__name__}.{'exact' if exact else 'forward'}()"
        raise TypeError(f"{function}() has no argument {unknown[0]!r}, and {called} has none{hint}")


def _warn_of_range(images: Tensor | ImageSource, model: nn.Module, *, first: bool, stacklevel: int = 3) -> bool:
    """Warn of floating-point images whose numbers hardly are what the networks expect; whether there was something to warn of.

    Args:
        first: whether these are the first images of several, which would hardly all be that dark.
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        return False
    most, fill = images.max().item(), getattr(model, "fill", 0)
    if most > 64:
        warnings.warn(
            f"floating-point images up to {most:g}, which the networks see as they are: uint8 is seen as [0, 1], others are to "
            "be divided by their white",
            stacklevel=stacklevel,
        )
    elif first and 0 < most < 1 / 8 and images.min() >= 0:
        warnings.warn(
            f"floating-point images from 0 up to {most:.2g} in the first batch, nearly black to networks and to a saliency "
            "prior: unless they are that dark, divide them by the white of their device (4095 for 12 bits), not by the largest "
            "number of the file's type",
            stacklevel=stacklevel,
        )
    elif fill > 4 * max(most, 1):
        warnings.warn(
            f"fill={fill:g} of the model beside floating-point images up to {most:.2g}: expected a value in the images' own "
            "range; that of uint8, 0 to 255, is for uint8 images",
            stacklevel=stacklevel,
        )
    else:
        return False
    return True


def _labels_of(dataset: Dataset, batch: Int[Tensor, " B"]) -> Int[Tensor, " N"]:
    """All labels of a set that is known to tell them, else those of a batch; other sets may mean anything by ``labels``."""
    return known_labels(dataset) if isinstance(dataset, LabelledImages) else batch


def _check_kind(labels: Int[Tensor, " B"], logits: Float[Tensor, "B classes"]) -> None:
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


def _check_labels(labels: Int[Tensor, " N"], n_classes: int, class_weights: Float[Tensor, " classes"] | None = None) -> None:
    if class_weights is not None and class_weights.shape != (n_classes,):
        raise ValueError(f"class_weights of shape {tuple(class_weights.shape)}: expected one for each of {n_classes} classes")
    if not labels.numel():
        return
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= n_classes:
        raise ValueError(
            f"label {highest if highest >= n_classes else lowest}: expected 0 to {n_classes - 1}, for the model answers with "
            f"{n_classes} classes"
        )


def _cross_entropy(
    out: Output, labels: Int[Tensor, " B"], class_weights: Float[Tensor, " classes"] | None
) -> Float[Tensor, " B"]:
    cross_entropy = F.cross_entropy(out.logits.float(), labels, reduction="none")
    return cross_entropy if class_weights is None else class_weights[labels] * cross_entropy


def _spread(out: Output, like: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """The entropy of each image's attention; zero where there is none."""
    return torch.zeros_like(like) if out.log_attention is None else out.entropy()


def _measured(
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


def _warn_of_mixed_images(
    loss: Measure, logits: Float[Tensor, "B outputs"], labels: Shaped[Tensor, "B *target"], losses: Float[Tensor, " B"]
) -> None:
    """Of a loss of outputs (B, 1) and labels (B,) in which broadcasting sets every output against every label."""
    if logits.shape[1:] != (1,) or labels.ndim != 1 or len(labels) < 2:
        return
    # Whatever else a loss does with a batch is its own affair, and it may not take one image, or labels (B, 1).
    with torch.no_grad(), torch.random.fork_rng(), suppress(Exception):
        alone = loss(logits[:1].float(), labels[:1])
        beside = loss(logits.float(), labels[:, None])  # what it would be, output by output
        same = partial(torch.allclose, rtol=1e-3, atol=1e-6)
        if same(alone, beside[:1]) and not same(alone, losses[:1].detach()):
            warnings.warn(
                f"of outputs {tuple(logits.shape)} and labels {tuple(labels.shape)} the loss sets each output against every "
                "label: take logits[:, 0]",
                stacklevel=3,
            )


def _errors(
    error: Measure | None, loss: Measure | None, logits: Float[Tensor, "B outputs"], labels: Shaped[Tensor, "B *target"]
) -> Shaped[Tensor, " B"]:
    """The error of each image; zeros where nothing says what one is."""
    if error is not None:
        return _measured(error, "error", logits, labels).detach()
    return logits.argmax(1) != labels if loss is None else torch.zeros(len(logits), device=logits.device)


@torch.no_grad()
def _finite_attention(model: nn.Module, images: Tensor | ImageSource) -> bool:
    """Whether the attention on these images is finite, so that something else is wrong; True where it is not known, too."""
    if not isinstance(model, AttentionSampling) or not isinstance(images, Tensor) or not images.isfinite().all():
        return True
    try:
        log_attention = model.attend(images)[1]
        return not bool((log_attention.isnan() | (log_attention == math.inf)).any())
    except ValueError:
        return True


def _augmented(
    images: Tensor, numbers: Sequence[int], places: Sequence[tuple[int, ...]], augment: Callable, seed: int, epoch: int
) -> Tensor:
    """Each image changed by itself: what happens to it depends on its number, the epoch, and its place if it has one."""
    if isinstance(images, ImageSource):
        raise ValueError(f"augment={_named(augment)} for images that are read patch by patch: expected none, or tensors")
    generator = torch.Generator()
    return torch.cat(
        [
            augment(image[None], generator.manual_seed(seed_for("augmentation", seed, epoch, number, *place)))
            for image, number, place in zip(images, numbers, places, strict=True)
        ]
    )


def _before(curve: list[dict]) -> float:
    return curve[-1]["seconds"] if curve else 0.0


def _shown(out: Output, sums: Sequence[float], speed: _Speed, has_error: bool, left: str) -> dict:
    """What stands at the end of the progress bar."""
    loss, wrong, spread, seen, _ = sums
    if not seen:
        return {}
    means = dict(loss=f"{loss / seen:.3f}") | (dict(error=f"{wrong / seen:.3f}") if has_error else {})
    if out.log_attention is not None:
        means.update(entropy=f"{spread / seen:.2f}")
    return means | {"images/s": f"{speed.rate:.1f}", "left": left}


class _Speed:
    """Images per second of this session, and the time that the rest of the run will take."""

    def __init__(self, total: int):
        self.total, self.images, self.started = total, 0, time.monotonic()

    def add(self, images: int) -> None:
        self.images += images

    @property
    def rate(self) -> float:
        return self.images / max(time.monotonic() - self.started, 1e-9)

    def left(self, done: int) -> str:
        return tqdm.format_interval((self.total - done) / max(self.rate, 1e-9))


class _StopSignals:
    """Notes SIGTERM and Ctrl-C while it is open; a second Ctrl-C interrupts as usual.

    One that nobody has ``heeded``, as when it comes in the last test, is delivered again at the end, also if the training ends
    with an error: whatever would come next, as the next run of a sweep, shall not begin.

    Only the main thread can listen, and only a run with a checkpoint has something to gain from it.
    """

    def __init__(self, listen: bool):
        self.received: int | None = None
        self.heeded = False
        self._listen = listen and threading.current_thread() is threading.main_thread()
        self._before: dict[int, object] = {}

    def __enter__(self) -> _StopSignals:
        if self._listen:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind, error, trace) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.received is not None and not self.heeded:
            if error is not None:  # the signal may be the end
                traceback.print_exception(kind, error, trace)
            signal.raise_signal(self.received)

    def _note(self, number, frame) -> None:
        if self.received is not None and number == signal.SIGINT:
            self.heeded = True
            raise KeyboardInterrupt
        self.received = number
