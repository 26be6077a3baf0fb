"""Training a model that classifies large images.

The loss is the paper's, cross-entropy minus λ times the entropy of the attention (eq. 21). A run can be stopped at any moment,
by a signal, a time limit or a power cut, and goes on from its checkpoint to the numbers it would have reached anyway.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Subset
from tqdm.auto import tqdm

from atslib.arguments import finite, is_whole
from atslib.checkpoints import load_checkpoint, save_checkpoint
from atslib.checks import (
    attention_is_finite,
    check_labels,
    check_output,
    check_set,
    labels_of,
    of_images,
    refuse_missing,
    refuse_pixels,
    warn_of_moving_statistics,
    warn_of_probabilities,
    warn_of_range,
)
from atslib.estimators import trusting
from atslib.evaluation import evaluate, evaluate_batches
from atslib.fingerprints import (
    KINDS_OF_IMAGES,
    code_of,
    functions_of,
    held_by,
    how_it_computes,
    named,
    parameters_of,
    settings_of,
    which_images,
)
from atslib.loading import (
    Items,
    LabelledImages,
    Loader,
    check_classes,
    epoch_batches,
    in_parts,
    known_classes,
    known_labels,
    seed_for,
    whole_micro_batch_size,
)
from atslib.losses import Measure, attention_loss, cross_entropy_of, entropy_of, errors_of, measured, warn_of_mixed_images
from atslib.models import Output
from atslib.patches import ImageSource
from atslib.precision import has_bfloat16
from atslib.processes import Processes, device_of
from atslib.signals import StopSignals
from atslib.warned import warn

__all__ = ["Settings", "StopTraining", "attention_loss", "evaluate", "train"]

# Steps between two looks at the numbers: a look makes the host wait for a GPU, and costs nothing on a CPU. Several processes
# stop and save together, at a look.
_LOOK_EVERY = {"cpu": 1, "cuda": 16}


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
        warmup: epochs, whole or not, over which the learning rate rises to that of the schedule, from a hundredth of it.
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
        micro_batch_size: images at a time, in each process; None for all of a step. Fewer need less memory, and only they need
            have one size. Their gradients add up to those of the step, and locations are drawn as for all at once, so that the
            numbers are the same up to rounding, and a checkpoint may go on with others. Not so with batch normalisation, which
            then normalises fewer images, with a loss that looks at several images together, and with what networks, or a set in
            its workers, draw for themselves; :class:`atslib.processes.DrawForAll` says how draws have to be made, and of an
            exception among them.
    """

    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 1e-3
    schedule: str = "constant"
    milestones: tuple[int, ...] = ()
    warmup: float = 0.0
    entropy_weight: float = 0.01
    clip_norm: float | None = 1.0
    class_weights: tuple[float, ...] | None = None
    balanced: bool = False
    bfloat16: bool | None = None
    test_every: int = 1
    seed: int = 0
    micro_batch_size: int | None = None

    def __post_init__(self):
        # Plain numbers, also where an array's or a tensor's elements were given: a checkpoint holds nothing else.
        for name in ("epochs", "batch_size", "test_every", "seed"):
            if not is_whole(value := getattr(self, name)):
                raise ValueError(f"{name}={value!r}: expected a whole number")
            object.__setattr__(self, name, int(value))
        object.__setattr__(self, "micro_batch_size", whole_micro_batch_size(self.micro_batch_size))
        if self.seed < 0:
            raise ValueError(f"seed={self.seed}: expected at least 0")
        for name in ("learning_rate", "warmup", "entropy_weight"):
            object.__setattr__(self, name, finite(name, getattr(self, name)))
        if not isinstance(self.milestones, Iterable) or not all(map(is_whole, self.milestones)):
            raise ValueError(f"milestones={self.milestones!r}: expected whole numbers of epochs, (250,) of one")
        object.__setattr__(self, "milestones", tuple(map(int, self.milestones)))
        if self.class_weights is not None:
            unordered = isinstance(self.class_weights, Mapping | Set)  # of a dict as Keras takes it the keys would be the weights
            if not isinstance(self.class_weights, Iterable) or unordered:
                raise ValueError(f"class_weights={self.class_weights!r}: expected one for each class, in their order")
            object.__setattr__(self, "class_weights", tuple(finite("class_weights", weight) for weight in self.class_weights))
            if not all(weight >= 0 for weight in self.class_weights):
                raise ValueError(f"class_weights={self.class_weights}: expected numbers of at least 0")
        if self.clip_norm is not None:
            object.__setattr__(self, "clip_norm", finite("clip_norm", self.clip_norm))
        if self.schedule not in ("constant", "cosine", "step"):
            raise ValueError(f"schedule={self.schedule!r}: expected 'constant', 'cosine' or 'step'")
        if (self.schedule == "step") != bool(self.milestones):
            raise ValueError(f"schedule={self.schedule!r} with milestones={self.milestones}: expected them for 'step' only")
        if self.warmup < 0:
            raise ValueError(f"warmup={self.warmup}: expected a number of epochs, at least 0")
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
        >>> [round(Settings(warmup=2).learning_rate_at(done), 6) for done in (0, 1, 2, 3)]
        [1e-05, 0.000505, 0.001, 0.001]
        """
        rate = self.learning_rate
        if epochs_done < self.warmup:
            rate *= 0.01 + 0.99 * epochs_done / self.warmup
        if self.schedule == "cosine":
            return rate * (1 + math.cos(math.pi * epochs_done / self.epochs)) / 2
        return rate * 0.1 ** sum(epochs_done >= milestone for milestone in self.milestones)

    def in_bfloat16(self, device: str | torch.device) -> bool:
        """Whether training on this device computes in bfloat16."""
        return has_bfloat16(device) if self.bfloat16 is None else self.bfloat16


def train(
    model: nn.Module,
    train_set: Items,
    test_set: Items | None,
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
            the statistics of its batch normalisation. Its weights lie channels last in memory afterwards;
            :func:`atslib.checkpoints.save_weights` writes them.
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
            these are other epochs, that is refused. Of the training set it knows the number of images, the labels that the set
            has as an attribute, and the names of its files, a few pixels of images in memory, or which images of a larger set
            they are: it is told from another fold's, but after a change of what is read, begin anew.
        max_seconds: stop after the first step that ends later than this (of several processes on GPUs, within 16 steps).
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
            numbers that the set itself draws in them are seeded by batch, or part of it; without workers they are not. Those
            that depend on the image alone belong into ``augment``.
        compile: run the model through ``torch.compile``: for long runs of images of one size, since each other size is compiled
            anew. It breaks into several graphs, at the draws among others; try whether it pays.
        progress: show a bar for each epoch.
        on_epoch: called with each new dict, in the first process, before the checkpoint is written: where a run is stopped in it,
            it is called once more with the same epoch. A place to keep a copy of the weights of the best epoch, and to raise
            :class:`StopTraining` when enough is enough.
        on_step: called after each step with the epoch, the step in it (both from 1) and the steps of an epoch, in the first
            process; the model then has its new weights.
        processes: where there are several; ``device`` then is theirs.

    Raises:
        ValueError: a checkpoint of other settings, of other images or labels (as far as the set tells), or of a
            model with other parts frozen or another number of patches, ``on_epoch``'s doing, too; the differences are listed.
            A checkpoint in a later epoch than is asked for. A test set that names other classes. ``balanced`` and a set
            without ``labels``, one for each image. A training set without images, or a loader in place of one. Labels that are
            no class of the model (on a GPU only those of the first images, if the set is no
            :class:`atslib.loading.LabelledImages`), class weights that are not one a class, or beside ``loss``. A ``loss`` or
            ``error`` that returns anything but a number for each image. Several processes and a model with batch
            normalisation. An optimiser in place of a function that makes one, one with a learning rate scheduler, one that
            holds no parameter of the model, or, with a checkpoint, one that holds others, too. A model that returns no logits
            ``(B, outputs)``, an ``augment`` that returns no image ``(1, C, H, W)``. What the model raises, with the numbers of
            the images.
        torch.cuda.OutOfMemoryError: in a step, as PyTorch raises it, with what to do.
        FloatingPointError: the loss or the gradient became NaN or infinite. An image of that step with pixels or a label that are
            not finite is named (on a GPU only if it is among the last that were seen, of several steps). The last good checkpoint
            is kept.
    """
    group = processes or Processes(device_of(model) if device is None else device)
    training = _Training(
        model,
        train_set,
        test_set,
        settings,
        group,
        checkpoint=None if checkpoint is None else Path(checkpoint).expanduser(),
        save_every=save_every,
        max_seconds=max_seconds,
        augment=augment,
        loss=loss,
        error=error,
        optimiser=optimiser,
        workers=workers,
        compile=compile,
        progress=progress and group.rank == 0,
        on_epoch=on_epoch,
        on_step=on_step,
    )
    return training.run()


class StopTraining(Exception):
    """Raised in ``on_epoch``: :func:`train` writes its checkpoint and returns the curve so far.

    Where it is called again with this checkpoint, it goes on with the next epoch. The epoch in which it was raised has had no
    test of its own, unless ``test_every`` gave it one.
    """


class _Sums(NamedTuple):
    """Of the epoch under way, over the images that were seen in it; the last is not 0 after a step that was not finite."""

    loss: float | Tensor = 0.0
    wrong: float | Tensor = 0.0
    entropy: float | Tensor = 0.0
    images: float | Tensor = 0.0
    bad: float | Tensor = 0.0


_IMAGES, _BAD = (_Sums._fields.index(name) for name in ("images", "bad"))  # in the tally, which is one tensor


class _Part(NamedTuple):
    """Images that are seen together."""

    rows: Sequence[int]  # of the batch
    numbers: list[int]  # of the images there, in the set
    last: bool  # of its batch: after it the step is made


@dataclass(eq=False)
class _Training:
    """A call of :func:`train` at work: what it was given, what it made of that, and where it is."""

    model: nn.Module
    train_set: Items
    test_set: Items | None
    settings: Settings
    group: Processes
    checkpoint: Path | None
    save_every: float
    max_seconds: float
    augment: Callable[[Tensor, torch.Generator], Tensor] | None
    loss: Measure | None
    error: Measure | None
    optimiser: Callable[[nn.Module], torch.optim.Optimizer] | None
    workers: int
    compile: bool
    progress: bool
    on_epoch: Callable[[dict], None] | None
    on_step: Callable[[int, int, int], None] | None

    def __post_init__(self):
        self.started = self.last_saved = time.monotonic()
        self.device = self.group.device
        self._check()
        self._move()
        self._make_optimiser()
        # Of the images, where it matters for the order in which they are shown.
        self.classes = self._known_classes() if self.settings.balanced else None
        self.bfloat16 = self.settings.in_bfloat16(self.device)
        # Where the run is: the epochs that are done, and of the one under way the steps, the sums, and the seconds before a stop.
        self.curve: list[dict] = []
        self.step, self.sums, self.seconds = 0, _Sums(), 0.0
        self.held = self._functions_hold()
        self.what = self._settings_of_run()
        if self.checkpoint is not None and self.checkpoint.exists():
            self._resume()
        weights = self.settings.class_weights
        self.class_weights = None if weights is None else torch.tensor(weights, dtype=torch.float32, device=self.device)
        self.train_loader, self.test_loader = (
            None if dataset is None else Loader(dataset, self.device, workers=self.workers, any_label=self.loss is not None)
            for dataset in (self.train_set, self.test_set)
        )
        self.forward = self.group.prepare(torch.compile(self.model) if self.compile else self.model)
        self.draws = torch.Generator(self.device)
        self.steps = math.ceil(len(self.train_set) / self.settings.batch_size)  # of an epoch
        self.speed = _Speed(self.settings.epochs * len(self.train_set))
        self.has_error = self.loss is None or self.error is not None
        self.labels_known = False  # to be classes of the model
        self.warned = False  # of the range of the images
        self.attends = any("entropy" in entry for entry in self.curve) or self.sums.entropy > 0  # whether the model has attention
        self.frozen = [module for module in self.model.modules() if not module.training] if self.model.training else []
        warn_of_moving_statistics(self.model, self.frozen)

    def run(self) -> list[dict]:
        with StopSignals(listen=self.checkpoint is not None) as signals:
            for epoch in range(len(self.curve) + 1, self.settings.epochs + 1):
                if not self._train_epoch(epoch, signals) or not self._end_epoch(epoch):
                    break
        return self.curve

    # Before the first step

    def _check(self) -> None:
        if not isinstance(self.settings, Settings):
            given = f"settings of type {type(self.settings).__name__}"
            raise ValueError(f"{given}: expected atslib.training.Settings(…), after the test set (None for no test)")
        check_set(self.train_set, "a training set")
        if self.augment is not None:
            _check_augment(self.augment)
        if self.loss is not None and self.settings.class_weights is not None:
            raise ValueError("class_weights and loss: expected one of them, the weights are the cross-entropy's")
        if self.test_set is not None:
            check_set(self.test_set, "a test set")
            if self.loss is None:
                _check_same_classes(self.train_set, self.test_set)
        modules = self.model.modules()
        alone = any(isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm) for module in modules)
        if alone and self.group.world > 1:
            raise ValueError(
                f"batch normalisation in {self.group.world} processes: each would normalise by its own share of a batch, and "
                "keep statistics of its own; use one process, another normalisation, or on GPUs "
                "nn.SyncBatchNorm.convert_sync_batchnorm"
            )
        size = self.settings.micro_batch_size
        together = any(isinstance(module, nn.SyncBatchNorm) for module in self.model.modules())
        if together and size is not None and self.group.world > 1:
            raise ValueError(
                f"micro_batch_size={size} and nn.SyncBatchNorm in {self.group.world} processes, which may have unlike numbers of "
                "parts and would wait for each other: expected None"
            )

    def _move(self) -> None:
        """Put the model where it is trained, in the layout in which convolutions are fast."""
        self.model.to(self.device)
        for network in self.model.children():
            # Convolutions like the channels last; on a CPU, group normalisation is ten times slower that way.
            if self.device.type != "cpu" or not any(isinstance(module, nn.GroupNorm) for module in network.modules()):
                network.to(memory_format=torch.channels_last)

    def _make_optimiser(self) -> None:
        model, rate = self.model, self.settings.learning_rate
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ValueError(f"{type(model).__name__} has no parameter with requires_grad: there is nothing to train")
        if self.optimiser is not None and not rate:
            raise ValueError("learning_rate=0 with an optimiser: its rates are scaled by what the schedule leaves of this one")
        self.made = torch.optim.Adam(model.parameters(), lr=rate) if self.optimiser is None else _made(self.optimiser, model)
        if self.checkpoint is not None:
            _refuse_foreign(self.made, model)
        self.rates = [group["lr"] for group in self.made.param_groups]  # at the start
        self.trained = [parameter for group in self.made.param_groups for parameter in group["params"]]

    def _known_classes(self) -> Shaped[Tensor, " N"]:
        kind = type(self.train_set).__name__
        try:
            classes = known_labels(self.train_set)
        except (TypeError, ValueError, RuntimeError, IndexError) as error:  # names, say, or those of the classes
            said = f"the attribute labels of {kind} is not the class of each image, (N,), as numbers"
            raise ValueError(f"balanced=True: {said}") from error
        if classes is None:
            raise ValueError(f"balanced=True: {kind} has no attribute labels, the class of each image, (N,)")
        check_classes(classes, " for balanced=True")
        if len(classes) != len(self.train_set):
            raise ValueError(f"balanced=True: {len(classes)} labels for {len(self.train_set)} images, expected one for each")
        return classes

    def _functions_hold(self) -> dict[str, str]:
        """What the caller's functions do and hold, see :mod:`atslib.fingerprints`."""
        functions = dict(loss=self.loss, error=self.error, augment=self.augment)
        held = {f"{name}_holds": held_by(function) for name, function in functions.items()}
        return held | {f"{name}_code": code_of(function) for name, function in functions.items()}

    def _settings_of_run(self) -> dict:
        """All that must be the same where a run goes on; of the model as it is now, whatever ``on_epoch`` has made of it."""
        what = asdict(self.settings) | dict(n_train=len(self.train_set), augment=named(self.augment))
        # As many as the memory of this machine has room for, like the number of processes; but a batch may count.
        if not any(isinstance(module, _BatchNorm) for module in self.model.modules()):
            del what["micro_batch_size"]
        what |= self._model_now()
        what |= {name: named(given) for name, given in dict(loss=self.loss, error=self.error).items() if given is not None}
        what |= {name: said for name, said in self.held.items() if said}
        what |= dict(optimiser_settings="" if self.optimiser is None else settings_of(self.made))
        if self.optimiser is not None:
            what |= dict(optimiser_parameters=parameters_of(self.made, self.model))
        with suppress(TypeError, ValueError, RuntimeError, IndexError):  # sets of other people's may call anything their labels
            if (labels := known_labels(self.train_set)) is not None:
                what |= dict(labels=hashlib.sha256(labels.cpu().contiguous().numpy().tobytes()).hexdigest()[:8])
        with suppress(TypeError, ValueError, RuntimeError, IndexError, AttributeError):  # and anything else
            what |= which_images(self.train_set) if self.checkpoint is not None else {}
        return what

    def _model_now(self) -> dict[str, str | None]:
        """How the model computes and which of its parameters are frozen."""
        frozen = " ".join(name for name, parameter in self.model.named_parameters() if not parameter.requires_grad)
        digest = hashlib.sha256(frozen.encode()).hexdigest()[:8] if frozen else None
        said = dict(model=how_it_computes(self.model), frozen=digest)
        return said | ({"model_functions": functions} if (functions := functions_of(self.model)) else {})

    def _resume(self) -> None:
        # What an epoch does depends on how many will follow only where the learning rate does.
        free = ["optimiser", *([] if self.settings.schedule == "cosine" else ["epochs"])]  # the first of older checkpoints
        # What an older checkpoint may not have: it says nothing of Adam.
        newer = ["labels", "model_functions", "optimiser_parameters", *([] if self.settings.warmup else ["warmup"]), *self.held]
        newer += KINDS_OF_IMAGES
        free += [kind for kind in KINDS_OF_IMAGES if kind not in self.what]  # the same images may be in memory now
        newer += ["optimiser_settings"] if self.optimiser is None else []
        position = load_checkpoint(self.checkpoint, self.model, self.made, self.what, free, newer)
        begun, asked = len(position["curve"]) + (position["step"] > 0), self.settings.epochs
        if begun > asked:
            raise ValueError(f"{self.checkpoint} is in epoch {begun} already, settings ask for {asked} epochs")
        self.curve, self.step, self.seconds = position["curve"], position["step"], position["seconds"]
        self.sums = _Sums(*position["sums"])
        self.bfloat16 = position["bfloat16"]  # in one precision to the end, whatever this machine would choose
        if self.progress and len(self.curve) == asked:
            tqdm.write(f"{self.checkpoint}: all {asked} epochs are done, nothing is trained", file=sys.stderr)

    # An epoch

    def _train_epoch(self, epoch: int, signals: StopSignals) -> bool:
        """Train for the rest of an epoch; False if it was stopped before its end."""
        began = time.monotonic() - self.seconds
        batches = epoch_batches(len(self.train_set), self.settings.batch_size, self.settings.seed, epoch, self.classes)
        plan = [self._parts_of(batch) for batch in batches]
        # In several processes each adds up its own images, the first also what was there before: a checkpoint says the sum.
        so_far = self.sums if self.group.rank == 0 else _Sums()
        self.tally = torch.tensor(so_far, dtype=torch.float64, device=self.device)
        self.model.train()
        for module in self.frozen:
            module.training = False
        bar = tqdm(
            total=len(self.train_set),
            initial=sum(map(len, batches[: self.step])),
            desc=f"epoch {epoch}/{self.settings.epochs}",
            disable=not self.progress,
            unit="image",
            leave=False,
        )
        seed, first = seed_for("workers", self.settings.seed, epoch), self.step
        asked = [part.numbers for parts in plan[first:] for part in parts]
        loaded = self.train_loader.batches(asked, seed=seed, first=sum(map(len, plan[:first])))
        for batch, parts in zip(batches[first:], plan[first:], strict=True):
            seen = bar.n
            self._set_learning_rate(epoch)
            self.made.zero_grad(set_to_none=True)
            self.model.zero_grad(set_to_none=True)  # of parameters, too, that the optimiser leaves out
            for part in parts:
                images, labels = next(loaded)
                # Draws and augmentation come from the seed and the step's place, so that it does not matter where a run was
                # stopped, or how many processes or parts share the batch. (Dropout, if a network has it, is PyTorch's own.)
                self.draws.manual_seed(seed_for("draws", self.settings.seed, epoch, self.step))
                if self.augment is not None:
                    # A balanced epoch may show an image several times, even in one batch: each time another change.
                    places = [(self.step, row) if self.settings.balanced else () for row in part.rows]
                    images = _augmented(images, part.numbers, places, self.augment, self.settings.seed, epoch)
                with _advice_on_memory(len(part.rows)), self.group.adding_up(self.forward, last=part.last):
                    out = self._answer(epoch, images, part, len(batch))
                    self._check_answer(out, images, labels, whole=len(parts) == 1)
                    missed = self._back_propagate(out, labels, part.rows, len(batch))
                if not part.last:
                    bar.update(len(part.rows))
                    if self.device.type == "cpu" and not missed.isfinite().all():  # the step's own check sees the last part only
                        refuse_missing(images, labels, out.logits, missed, part.numbers)
            self._clip()
            self.step += 1
            stopping = saving = False
            if self.step % _LOOK_EVERY.get(self.device.type, 1) == 0 or self.step == self.steps or self._is_due(signals):
                stopping, saving = self._look_at_numbers(signals)
                if self.sums.bad:
                    refuse_missing(images, labels, out.logits, missed, part.numbers)
                    raise self._not_finite(epoch, self.step)
            self.made.step()
            if self.on_step is not None and self.group.rank == 0:
                self.on_step(epoch, self.step, self.steps)
            self.speed.add(len(batch))
            if self.progress:
                left = self.speed.left((epoch - 1) * len(self.train_set) + seen + len(batch))
                bar.set_postfix(self._shown(left), refresh=False)  # drawn by update, and not more often than can be read
                bar.update(seen + len(batch) - bar.n)
            if stopping or saving:
                self.seconds = time.monotonic() - began
                self._save()
            if stopping:
                bar.close()
                signals.heeded = True
                return False
        bar.close()
        self.seconds = time.monotonic() - began
        return True

    def _end_epoch(self, epoch: int) -> bool:
        """Test, report and save; False where the caller has had enough."""
        before = self.curve[-1]["seconds"] if self.curve else 0.0
        entry = dict(epoch=epoch, seconds=round(self.seconds + before, 3), train_loss=self.sums.loss / self.sums.images)
        if self.has_error:
            entry.update(train_error=self.sums.wrong / self.sums.images)
        if self.attends:
            entry.update(entropy=self.sums.entropy / self.sums.images)
        if self.test_set is not None and (epoch % self.settings.test_every == 0 or epoch == self.settings.epochs):
            self._save()
            entry.update(self._test())
        self.curve.append(entry)
        enough = torch.zeros((), device=self.device)
        if self.on_epoch is not None and self.group.rank == 0:
            try:
                self.on_epoch(entry)
            except StopTraining:
                enough += 1
        self.step, self.sums, self.seconds = 0, _Sums(), 0.0
        self._save()
        return not self.group.sum(enough)  # with or without `on_epoch`, which may be given to the first process alone

    def _test(self) -> dict[str, float]:
        found = evaluate_batches(
            self.model,
            self.test_loader,
            self.settings.batch_size,
            self.group,
            micro_batch_size=self.settings.micro_batch_size,
            bfloat16=self.bfloat16,
            loss=self.loss,
            error=self.error,
            progress=self.progress,
        )
        uneven = self.settings.balanced or self.settings.class_weights is not None
        reported = ("loss", "error", *(["balanced_error"] if uneven else []))
        return {f"test_{key}": found[key] for key in reported if key in found}

    def _save(self) -> None:
        if self.checkpoint is not None and self.group.rank == 0:
            position = dict(curve=self.curve, step=self.step, sums=list(self.sums), seconds=self.seconds, bfloat16=self.bfloat16)
            # What `on_epoch` has changed is no weight: where the model is not given so again, it is to be refused.
            save_checkpoint(self.checkpoint, self.model, self.made, self.what | self._model_now(), position)
        self.group.wait()  # or another process might look for the checkpoint before it is there
        self.last_saved = time.monotonic()

    # A step

    def _parts_of(self, batch: Sequence[int]) -> list[_Part]:
        """This process's images of a batch, which are seen part after part and make one step."""
        # A process without an image in the last batch works on another's, which then counts nothing.
        parts = in_parts(self.group.share(len(batch)) or [0], self.settings.micro_batch_size)
        return [_Part(rows, [batch[row] for row in rows], last=rows is parts[-1]) for rows in parts]

    def _set_learning_rate(self, epoch: int) -> None:
        scheduled = self.settings.learning_rate_at(epoch - 1 + self.step / self.steps)
        for group, rate in zip(self.made.param_groups, self.rates, strict=True):
            group["lr"] = scheduled if self.optimiser is None else rate * scheduled / self.settings.learning_rate

    def _answer(self, epoch: int, images: Tensor | ImageSource, part: _Part, count: int) -> Output:
        """The model's output for a part of a batch of ``count`` images."""
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)
        # After the first step, where a look would make a GPU's host wait: attention of NaN makes a loss of NaN, which is seen.
        unseen = self.device.type == "cuda" and not self._first_step()
        with self.group.drawing(self.draws, part.rows, count), trusting(unseen), autocast:
            try:
                return self.forward(images, generator=self.draws)
            except (ValueError, RuntimeError) as error:
                # Weights that are not finite, or so large that attention is not, by a step too large: that is what is
                # wrong, and not the image, which the message would ask about.
                if isinstance(error, ValueError):
                    if self.tally[_BAD] or (not self._first_step() and not attention_is_finite(self.model, images)):
                        raise self._not_finite(epoch, self.step + 1) from None
                    refuse_pixels(images, part.numbers)
                if (of_set := of_images(error, part.numbers)) is error:
                    raise
                raise of_set from error

    def _check_answer(
        self, out: object, images: Tensor | ImageSource, labels: Shaped[Tensor, "B *target"], whole: bool
    ) -> None:
        """Whether output, images and labels are what they should be; on a GPU only where the host need not wait, or once.

        Args:
            whole: whether these are all the images of the step.
        """
        on_cpu, first = self.device.type == "cpu", self._first_step()
        check_output(self.model, out, len(images))
        self.attends |= out.log_attention is not None
        if not self.warned and (on_cpu or first):
            self.warned = warn_of_range(images, self.model, first=first and whole)  # one image may well be dark
        if self.loss is None and first and not self.labels_known:
            warn_of_probabilities(self.model, out.logits)
        # Of the whole set where it tells them, and else batch by batch.
        if self.loss is None and (on_cpu or not self.labels_known):
            sets = () if self.labels_known else (self.train_set, self.test_set)
            for told in [labels_of(one, labels) for one in sets] or [labels]:
                check_labels(told, out.logits.shape[1], self.class_weights)
            self.labels_known = True

    def _back_propagate(
        self, out: Output, labels: Shaped[Tensor, "B *target"], rows: Sequence[int], count: int
    ) -> Float[Tensor, " B"]:
        """Add to the gradients and to what there is to count; returns the loss of each image, without the entropy."""
        if self.loss is None:
            missed = cross_entropy_of(out, labels, self.class_weights)  # (B,)
        else:
            missed = measured(self.loss, "loss", out.logits, labels)
            if self._first_step() and not self.tally[_IMAGES]:  # once, in the first part
                warn_of_mixed_images(self.loss, out.logits, labels, missed)
        entropy = entropy_of(out, missed)
        counted = float(self.group.rank < count)
        # Gradients are averaged over processes: times their number, it is the mean over the batch.
        objective = (missed - self.settings.entropy_weight * entropy).sum() * counted * self.group.world / count
        self.group.backward(objective)
        wrong = errors_of(self.error, self.loss, out.logits.detach(), labels)
        sums = _Sums(
            loss=missed.detach().sum(),
            wrong=wrong.sum(),
            entropy=entropy.detach().sum(),
            images=torch.full((), float(len(rows)), dtype=torch.float64, device=self.device),  # no copy to wait for
            bad=~objective.detach().isfinite(),
        )
        self.tally += counted * torch.stack([part.to(self.device, torch.float64) for part in sums])
        return missed

    def _clip(self) -> None:
        """Shorten the gradient of the step, and count it if it is not finite."""
        norm = nn.utils.clip_grad_norm_(self.trained, self.settings.clip_norm or math.inf)
        self.tally[_BAD] += ~norm.isfinite()

    def _wishes(self, signals: StopSignals) -> tuple[bool, bool]:
        """Whether this process is to stop, and to save."""
        now = time.monotonic()
        stop = signals.received is not None or now - self.started > self.max_seconds
        return stop, now - self.last_saved > self.save_every

    def _is_due(self, signals: StopSignals) -> bool:
        """Whether there is something to stop or save for, where no other process is to be asked: clock and signals are here."""
        return self.group.world == 1 and any(self._wishes(signals))

    def _look_at_numbers(self, signals: StopSignals) -> tuple[bool, bool]:
        """Bring the sums to this process, over all of them; whether to stop, and whether to save."""
        wishes = self.tally.new_tensor(self._wishes(signals))
        *sums, stopping, saving = self.group.sum(torch.cat([self.tally, wishes])).tolist()
        self.sums = _Sums(*sums)
        return bool(stopping), bool(saving)

    def _first_step(self) -> bool:
        return not (self.curve or self.step)

    def _not_finite(self, epoch: int, step: int) -> FloatingPointError:
        where = f"epoch {epoch}, step {step}" + ("" if self.device.type == "cpu" else " or shortly before")
        rate, norm = self.settings.learning_rate, self.settings.clip_norm
        advice = f"try a lower learning rate than {rate} or a tighter clip_norm than {norm}"
        if (epoch, step) == (1, 1):  # no step has been made yet that could have been too large
            advice = "look at the images, the labels and the loss"
        there = self.checkpoint is not None and self.checkpoint.exists()
        good = f"; {self.checkpoint} is of a good step before it" if there else ""
        return FloatingPointError(f"loss or gradient is not finite in {where}: {advice}{good}")

    def _shown(self, left: str) -> dict[str, str]:
        """What stands at the end of the progress bar."""
        if not (images := self.sums.images):
            return {}
        shown = dict(loss=f"{self.sums.loss / images:.3f}")
        if self.has_error:
            shown.update(error=f"{self.sums.wrong / images:.3f}")
        if self.attends:
            shown.update(entropy=f"{self.sums.entropy / images:.2f}")
        return shown | {"images/s": f"{self.speed.rate:.1f}", "left": left}


@contextmanager
def _advice_on_memory(images: int) -> Iterator[None]:
    """Around what may be too much for a GPU with so many images."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        if images == 1:
            raise
        advice = f"with {images} images at a time: with a settings.micro_batch_size below that a step sees its images in parts"
        raise torch.cuda.OutOfMemoryError(f"{error}\n{advice}") from error


def _made(optimiser: Callable[[nn.Module], torch.optim.Optimizer], model: nn.Module) -> torch.optim.Optimizer:
    """What the caller's function makes for the model."""
    kind = optimiser if isinstance(optimiser, type) else type(optimiser)
    if issubclass(kind, torch.optim.Optimizer):
        call = f"{kind.__name__}(model.parameters())"
        raise ValueError(f"optimiser {kind.__name__}: expected a function of the model that makes one, lambda model: {call}")
    made = optimiser(model)
    if not isinstance(made, torch.optim.Optimizer):
        raise ValueError(f"optimiser made a {type(made).__name__}: expected a torch.optim.Optimizer")
    if any("initial_lr" in group for group in made.param_groups):
        raise ValueError(
            "optimiser with a learning rate scheduler, which training would not ask: expected none, and settings.schedule, "
            "settings.warmup and settings.milestones"
        )
    if isinstance(made, torch.optim.LBFGS):
        raise ValueError("optimiser LBFGS: expected one that makes a step from one gradient, such as torch.optim.AdamW")
    if set(model.parameters()).isdisjoint(parameter for group in made.param_groups for parameter in group["params"]):
        raise ValueError(
            "optimiser with none of the model's parameters, so that nothing would be trained: make it for the model that the "
            "function is given"
        )
    return made


def _refuse_foreign(optimiser: torch.optim.Optimizer, model: nn.Module) -> None:
    """Raise a ValueError for parameters that are not the model's."""
    own = set(model.parameters())
    if foreign := sum(parameter not in own for group in optimiser.param_groups for parameter in group["params"]):
        raise ValueError(
            f"optimiser with {foreign} parameters that are not the model's, which its checkpoint would not hold: make it for the "
            "model that the function is given, of which they may be a part"
        )


def _check_same_classes(train_set: Items, test_set: Items) -> None:
    """Raise a ValueError for two sets that name their classes, and in which a label means another class.

    Other people's sets may call something else so: there it is a warning, and none where it is no list of names.
    """
    sets = [_innermost(part) for part in (train_set, test_set)]
    ours, others = (tuple(known_classes(part)) for part in sets)
    for names in (ours, others):
        if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            return
        if all(name.isdigit() for name in names):  # where nobody has named them
            return
    if all(mine == other for mine, other in zip(ours, others, strict=False)):
        return
    said = f"classes {', '.join(ours)} of the training set and {', '.join(others)} of the test set: one label would mean two"
    if not all(isinstance(part, LabelledImages) for part in sets):
        warn(said)
        return
    raise ValueError(f"{said}; give the test set classes=train_set.classes")


def _innermost(dataset: Items) -> Items:
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dataset


def _check_augment(augment: Callable) -> None:
    """Raise a ValueError for what cannot be called with an image and a generator."""
    try:
        inspect.signature(augment).bind(None, None)
    except TypeError as error:
        raise ValueError(
            f"augment={named(augment)}: {error}; expected a function of an image (1, C, H, W) and a torch.Generator, "
            "lambda image, generator: transform(image), say"
        ) from error
    except ValueError:
        pass  # of some built-in functions Python does not know the arguments


def _augmented(
    images: Tensor, numbers: Sequence[int], places: Sequence[tuple[int, ...]], augment: Callable, seed: int, epoch: int
) -> Tensor:
    """Each image changed by itself: what happens to it depends on its number, the epoch, and its place if it has one."""
    if isinstance(images, ImageSource):
        raise ValueError(f"augment={named(augment)} for images that are read patch by patch: expected none, or tensors")
    generator, changed = torch.Generator(), []
    for image, number, place in zip(images, numbers, places, strict=True):
        made = augment(image[None], generator.manual_seed(seed_for("augmentation", seed, epoch, number, *place)))
        if not isinstance(made, Tensor) or made.ndim != 4 or len(made) != 1:
            said = f"shape {tuple(made.shape)}" if isinstance(made, Tensor) else f"type {type(made).__name__}"
            raise ValueError(
                f"augment={named(augment)} returned {said} for image {number}, of shape {tuple(image[None].shape)}: expected one "
                "image, (1, C, H, W)"
            )
        changed.append(made)
    return torch.cat(changed)


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
