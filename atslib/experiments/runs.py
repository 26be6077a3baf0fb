"""One run of an experiment, from its name to its record."""

from __future__ import annotations

import ast
import copy
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from types import ModuleType

import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_file, save
from torch import nn
from torch.utils.data import Dataset, Subset

from atslib.checkpoints import read_position
from atslib.dependence import counts_batch
from atslib.estimators import ESTIMATORS, PPS, Estimator, Stratified, Systematic, get_estimator
from atslib.experiments import colon_cancer, megapixel_mnist, speed_limits
from atslib.experiments.parts import METHODS, Data, profile_of
from atslib.experiments.records import hardware, read_record, software, write_record, write_whole
from atslib.loading import InMemory
from atslib.memory import return_freed_memory
from atslib.models import AttentionSampling, DeepMIL
from atslib.processes import Processes
from atslib.profiling import compare, training_step
from atslib.training import Settings, evaluate, train

EXPERIMENTS: dict[str, ModuleType] = {module.NAME: module for module in (megapixel_mnist, colon_cancer, speed_limits)}
ORDERED = {estimator.name: estimator for estimator in (Systematic, Stratified, PPS)}  # those that draw along a curve
OTHER_N = (5, 10, 25, 50)  # after training, a model is also tested with these numbers of patches
STATES = ("done", "begun", "to do", "busy")
ORDERS = ("hilbert", "raster")
_LONGEST_NAME = 190  # bytes, so that with what is put behind it, in files not yet in their place, too, it has at most 255


@dataclass(frozen=True)
class Run:
    """One run: what to train, on what.

    What does not matter to the method is None, so that two runs are equal if they are the same.

    Attributes:
        experiment: ``"megapixel_mnist"``, ``"colon_cancer"`` or ``"speed_limits"``.
        method: ``"ats"``, ``"uniform"``, ``"deep_mil"``, ``"cnn"`` or ``"nested"``.
        estimator: a name in :data:`atslib.estimators.ESTIMATORS`.
        order: in which estimators that draw along a curve visit the map.
        n_patches: N.
        seed: of weights, order and draws; of the colon cancer images it also says which fold is for tests.
        profile: sizes and length of the run, a name in the experiment's ``PROFILES``.
        cnn_scale: of the image that the CNN sees.
        changes: pairs of a field of the profile, or of its training settings, and the value that takes its place.
        data: the data root, ``"generated"``, or None.
        out: folder for ``runs/``, ``weights/`` and ``checkpoints/``.

    Raises:
        ValueError: an unknown method, estimator or order.
    """

    experiment: str
    method: str = "ats"
    estimator: str | None = "systematic"
    order: str | None = "hilbert"
    n_patches: int | None = 10
    seed: int = 0
    profile: str = "smoke"
    cnn_scale: float | None = 1.0
    changes: tuple[tuple[str, object], ...] = ()
    data: str | None = None
    out: Path = Path("results")

    def __post_init__(self):
        object.__setattr__(self, "out", Path(self.out))
        object.__setattr__(self, "changes", tuple(sorted((name, _plain(value)) for name, value in self.changes)))
        # Now, not when the model is built: a name that is wrong would stand in the names of files until then.
        for field, known in (("method", METHODS), ("estimator", ESTIMATORS), ("order", ORDERS)):
            value = getattr(self, field)
            if value not in known and not (value is None and field != "method"):
                raise ValueError(f"{field} {value!r}: expected one of {', '.join(known)}")
        if not METHODS[self.method]:
            object.__setattr__(self, "estimator", None)
            object.__setattr__(self, "n_patches", None)
        if self.estimator not in ORDERED:
            object.__setattr__(self, "order", None)
        if self.method != "cnn":
            object.__setattr__(self, "cnn_scale", None)

    @property
    def module(self) -> ModuleType:
        """That of the experiment.

        Raises:
            ValueError: there is none of this name.
        """
        if self.experiment not in EXPERIMENTS:
            raise ValueError(
                f"experiment {self.experiment!r}: expected one of the paper's, {', '.join(EXPERIMENTS)}; for others there are "
                "atslib.training.train and evaluate"
            )
        return EXPERIMENTS[self.experiment]

    @cached_property
    def sizes(self):
        """The profile of the experiment, with the changes.

        Raises:
            ValueError: the experiment has no such profile.
        """
        return changed(profile_of(self.profile, self.module.PROFILES), self.changes)

    @cached_property
    def loaded(self) -> Data:
        """The data.

        Raises:
            ValueError: a change of a setting that these data do not have.
        """
        # The smallest profile needs no data.
        root = "generated" if self.profile == "smoke" and self.data is None else self.data
        loaded = self.module.load_data(self.sizes, root, self.seed)
        if idle := sorted({field for field, _ in self.changes} & set(loaded.unused)):
            raise ValueError(f"setting {', '.join(map(repr, idle))}: changes nothing for {loaded.name}")
        return loaded

    @cached_property
    def settings(self) -> Settings:
        """How to train, as the profile says, with this seed and, where the profile counts updates, as many epochs as give them.

        The entropy of the attention is rewarded where attention decides what is seen (eq. 21; §H has it "for ATS"). Deep MIL sees
        all patches anyway, so for it the weight is 0 unless ``changes`` has another.
        """
        settings = replace(self.sizes.training, seed=self.seed)
        asked = {field for field, _ in self.changes}
        if "class_weights" not in asked:
            settings = replace(settings, class_weights=self.loaded.class_weights)
        if self.method == "deep_mil" and "entropy_weight" not in asked:
            settings = replace(settings, entropy_weight=0.0)
        if updates := getattr(self.sizes, "updates", None):
            settings = replace(settings, epochs=math.ceil(updates / math.ceil(len(self.loaded.train) / settings.batch_size)))
        return settings

    @property
    def name(self) -> str:
        """Of its files, made of the method with what matters to it, the seed, the profile, and the data if not the default.

        Raises:
            ValueError: so many changes that no file can have it.
        """
        parts = [self.experiment, self.method]
        if self.estimator is not None:
            parts += [self.estimator if self.order in (None, "hilbert") else f"{self.estimator}_{self.order}"]
            parts += [f"n{self.n_patches}"]
        if self.cnn_scale is not None:
            short = f"{self.cnn_scale:g}"
            parts += ["scale" + (short if float(short) == self.cnn_scale else repr(self.cnn_scale))]
        parts += [f"seed{self.seed}", self.profile]
        name = "-".join([*parts, *(f"{field}_{value}" for field, value in self.changes)]) + self.loaded.suffix
        if (length := len(os.fsencode(name))) > _LONGEST_NAME:
            raise ValueError(f"{name}: {length} bytes, too many for a file's name; expected fewer changes, {_LONGEST_NAME} bytes")
        return name

    @property
    def arguments(self) -> list[str]:
        """Of ``python -m atslib.experiments``, for this run."""
        options = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("experiment", "changes")}
        given = [(f"--{name.replace('_', '-')}", str(value)) for name, value in options.items() if value is not None]
        given += [("--set", f"{field}={value}") for field, value in self.changes]
        return [self.experiment, *itertools.chain.from_iterable(given)]

    @property
    def record(self) -> Path:
        return self.out / "runs" / f"{self.name}.json"

    @property
    def weights(self) -> Path:
        return self.out / "weights" / f"{self.name}.safetensors"

    @property
    def snapshots(self) -> Path:
        """The weights of the attention network as training went on, see :func:`attention_snapshots`."""
        return self.out / "weights" / f"{self.name}.attention.safetensors"

    @property
    def checkpoint(self) -> Path:
        return self.out / "checkpoints" / f"{self.name}.pt"

    @property
    def sessions(self) -> Path:
        """On what, and with which software, the run under way has been computed so far, with one entry for each change."""
        return self.checkpoint.with_suffix(".sessions.json")

    @property
    def state(self) -> str:
        """``"done"``, ``"begun"`` or ``"to do"``.

        Raises:
            ValueError: a file in the place of the record that is none.
        """
        if self.record.exists():
            read_record(self.record)
            return "done"
        return "begun" if self.checkpoint.exists() else "to do"

    @cached_property
    def _lock(self) -> FileLock:
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self.checkpoint.with_suffix(".lock"), timeout=0)

    @contextmanager
    def claimed(self, group: Processes) -> Iterator[str]:
        """Keep others away from this run; yields its state, ``"busy"`` if another program has it.

        So several programs can work on one sweep. A program that dies gives up its runs.
        """
        number, mine = 0, False
        try:
            if group.rank == 0:
                try:
                    self._lock.acquire()
                    mine, number = True, STATES.index(self.state)
                except Timeout:
                    number = STATES.index("busy")
            yield STATES[int(group.sum(torch.tensor(float(number), device=group.device)))]
        finally:
            if mine:
                # Who waits for a lock that is taken away finds a run that is done. (On Windows an open file stays.)
                if os.name == "posix" and self._lock.lock_counter == 1 and self.record.exists():
                    Path(self._lock.lock_file).unlink(missing_ok=True)
                self._lock.release()

    def differences(self) -> list[str]:
        """Of a run that is done: settings of its record that are others than the profile has today."""
        recorded, today = read_record(self.record)["settings"], json.loads(json.dumps(self._described()))
        recorded, today = (some | some.get("training", {}) for some in (recorded, today))
        # Older records lack newer settings; for bfloat16 today's None is whatever is faster.
        known = (recorded.keys() & today.keys()) - {"training", "bfloat16", "changes"}
        return [f"{key} {recorded[key]!r}, now {today[key]!r}" for key in sorted(known) if recorded[key] != today[key]]

    def build(self) -> nn.Module:
        """The model with its initial weights."""
        torch.manual_seed(self.seed)
        estimator: Estimator | None = None
        if self.estimator is not None:
            estimator = ORDERED[self.estimator](self.order) if self.order else get_estimator(self.estimator)
        return self.module.build_model(self.n_patches, estimator, self.sizes, self.method, self.cnn_scale)

    def execute(
        self,
        group: Processes,
        *,
        max_seconds: float = math.inf,
        save_every: float = 300,
        workers: int = 0,
        in_memory: bool | None = None,
        compile: bool = False,
        chunk: int | None = None,
        micro_batch_size: int | None = None,
        snapshots_per_epoch: int = 1,
        report: Callable[[str], None] = print,
    ) -> bool:
        """Train, test, write the record and the weights; False if it was stopped on the way, with a checkpoint.

        The run is claimed meanwhile, see :meth:`claimed`.

        Args:
            in_memory: whether the images are kept on the device; None where they are few enough.
            chunk: patches whose activations Deep MIL holds at a time, 0 for all; None as it is built. Changes time and memory,
                and results up to rounding.
            micro_batch_size: images seen at a time, see :class:`atslib.training.Settings`; the same, and stands in the record's
                cost.
            snapshots_per_epoch: how often the attention network's weights are kept, see :func:`attention_snapshots`. Changes
                nothing else.

        Raises:
            ValueError: a negative chunk, less than one snapshot an epoch, a ``micro_batch_size`` below one, or of a model
                with batch normalisation, whose result it would change; another program is at this run; and what
                :func:`atslib.training.train` raises.
        """
        if chunk is not None and chunk < 0:
            raise ValueError(f"chunk={chunk}: expected a number of patches, or 0 for all at once")
        if snapshots_per_epoch < 1:
            raise ValueError(f"snapshots_per_epoch={snapshots_per_epoch}: expected at least 1, at the end of each epoch")
        with self.claimed(group) as state:
            if state == "busy":
                raise ValueError(f"{self.name}: another program is at it, which holds {self._lock.lock_file}")
            # Before training: what this process has imported, not what a commit made meanwhile has.
            several = dict(processes=group.world) if group.world > 1 else {}
            provenance = dict(hardware=hardware(group.device) | several, software=software())
            progress = sys.stderr.isatty()
            train_set, test_set = (
                InMemory(part, group.device, workers=workers, progress=progress and group.rank == 0)
                if in_memory or (in_memory is None and _fits(part, group.device))
                else part
                for part in (self.loaded.train, self.loaded.test)
            )
            model = self.build()
            if chunk is not None and isinstance(model, DeepMIL):
                model.chunk = chunk or None
            settings = self._in_parts(model, micro_batch_size)
            if group.rank == 0 and not self.checkpoint.exists():
                self.snapshots.unlink(missing_ok=True)  # of an earlier run, whose checkpoint and record were taken away
            snapshots = _Snapshots(model, self.snapshots) if group.rank == 0 else None
            sessions = self._note_session(provenance) if group.rank == 0 else []

            def on_epoch(entry: dict) -> None:
                report("  ".join(f"{key} {value:.4g}" for key, value in entry.items()))
                if "test_error" in entry:
                    snapshots.take(entry["epoch"])
                return_freed_memory()  # by __main__ it is kept, and grows where each step has another number of distinct patches

            def on_step(epoch: int, step: int, steps: int) -> None:
                parts, before = (done * snapshots_per_epoch // steps for done in (step, step - 1))
                if parts > before and step < steps:
                    snapshots.take(round(epoch - 1 + step / steps, 3))

            curve = train(
                model,
                train_set,
                test_set if self.sizes.n_watch >= len(test_set) else _first(test_set, self.sizes.n_watch),
                settings,
                checkpoint=self.checkpoint,
                save_every=save_every,
                max_seconds=max_seconds,
                augment=self.loaded.augment,
                workers=workers,
                compile=compile,
                progress=progress,
                on_epoch=on_epoch,
                on_step=on_step,
                processes=group,
            )
            if len(curve) < self.settings.epochs:
                report(f"{self.name}: stopped in epoch {len(curve) + 1} of {self.settings.epochs}; go on with --resume")
                return False

            # In float32: what a user of the weights will see.
            looks = self._looks(model, test_set) if METHODS[self.method] else [None]
            tests = {
                n: evaluate(
                    model,
                    test_set,
                    settings.batch_size,
                    micro_batch_size=micro_batch_size,
                    workers=workers,
                    progress=progress and group.rank == 0,
                    processes=group,
                    **({} if n is None else dict(n_patches=n)),
                )
                for n in looks
            }
            if group.rank == 0:
                # A run with a record is done, so the record comes last.
                write_whole(self.weights, save({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}))
                record = self._record(group, curve, tests, model, provenance)
                if micro_batch_size is not None:
                    record["cost"]["micro_batch_size"] = micro_batch_size
                if isinstance(model, AttentionSampling):
                    record["cost"]["share_equal"] = model.shares_equal_on(group.device) and not compile
                if len(sessions) > 1:
                    record["sessions"] = sessions
                write_record(self.record, record)
                for path in (self.checkpoint, self.sessions):
                    path.unlink(missing_ok=True)
                final = tests[self.n_patches]
                report(f"{self.record}\ntest error {final['error']:.3f} ± {final['stderr']:.3f} on {final['n']} images")
            return True

    def _in_parts(self, model: nn.Module, micro_batch_size: int | None) -> Settings:
        """The settings with this ``micro_batch_size``, which is not one of the run: it changes memory and time."""
        if micro_batch_size is not None and any(map(counts_batch, model.modules())):
            raise ValueError(
                f"micro_batch_size={micro_batch_size} of a {type(model).__name__} with batch normalisation, which would "
                "normalise fewer images and be another run: expected none"
            )
        return replace(self.settings, micro_batch_size=micro_batch_size)

    def estimate(self, group: Processes, micro_batch_size: int | None = None) -> dict:
        """Sizes of this run, and the time it will take, judged from a few steps, or from a few parts of one."""
        settings, loaded, model = self.settings, self.loaded, self.build()
        at_once = min(self._in_parts(model, micro_batch_size).micro_batch_size or math.inf, settings.batch_size)
        few = min(len(loaded.train), 2 * at_once)
        some = Subset(loaded.train, range(few))
        short = replace(settings, epochs=1, batch_size=at_once, schedule="constant", milestones=())
        run = lambda: train(model, some, None, short, augment=loaded.augment, progress=False, processes=group)
        run()  # warm-up
        per_image = _timed(run) / few
        tested = min(few, len(loaded.test))
        per_test = _timed(
            lambda: evaluate(model, Subset(loaded.test, range(tested)), at_once, progress=False, processes=group)
        )
        n_tests = math.ceil(settings.epochs / settings.test_every) * min(self.sizes.n_watch, len(loaded.test))
        steps = math.ceil(len(loaded.train) / settings.batch_size)
        return dict(
            images=f"{len(loaded.train)} + {len(loaded.test)} of {' × '.join(map(str, loaded.train[0][0].shape[1:]))}",
            parameters=sum(p.numel() for p in model.parameters()),
            steps=f"{settings.epochs} × {steps} of {settings.batch_size}",
            seconds_per_step=per_image * min(settings.batch_size, len(loaded.train)),
            seconds=per_image * len(loaded.train) * settings.epochs + per_test / tested * n_tests,
        )

    def _note_session(self, provenance: dict) -> list[dict]:
        """Add where this session runs, if that is new; returns all of the run.

        Raises:
            ValueError: the sessions before are in a file that cannot be read.
        """
        known = []
        if self.checkpoint.exists() and self.sessions.exists():
            try:
                known = list(json.loads(self.sessions.read_text(encoding="utf-8")))
            except (OSError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{self.sessions} does not say what the run was computed on so far ({error}): delete it, to go on without, "
                    f"or {self.checkpoint}, to start anew"
                ) from error
        if not known or known[-1] != provenance:
            known.append(provenance)
            write_whole(self.sessions, json.dumps(known).encode())
        return known

    def _looks(self, model: nn.Module, test_set: Dataset) -> list[int]:
        """Numbers of patches to test with: no more distinct ones than there are locations."""
        looks = sorted({*OTHER_N, self.n_patches})
        if not model.estimator.distinct:
            return looks
        with torch.no_grad():
            _, log_attention = model.attend(test_set[0][0][None].to(next(model.parameters()).device))
        return [n for n in looks if n <= log_attention[0].numel()]

    def _described(self) -> dict:
        """The settings as a record has them."""
        asked = dict(order=self.order, cnn_scale=self.cnn_scale)
        return (
            asdict(self.sizes)
            | {key: value for key, value in asked.items() if value is not None}
            | (dict(changes=dict(self.changes)) if self.changes else {})
            | dict(training=asdict(self.settings))
        )

    def _record(self, group: Processes, curve: list[dict], tests: dict, model: nn.Module, provenance: dict) -> dict:
        final = tests[self.n_patches]
        shown = [entry for entry in curve if "test_error" in entry]  # of thousands of epochs, those with a test
        bfloat16 = read_position(self.checkpoint)["bfloat16"]
        training = asdict(self.settings)
        del training["micro_batch_size"]  # no setting of the run
        return dict(
            experiment=self.experiment,
            method=self.method,
            estimator=self.estimator,
            n_patches=self.n_patches,
            seed=self.seed,
            profile=self.profile,
            dataset=self.loaded.describe(),
            **provenance,
            settings=self._described() | dict(training=training | dict(bfloat16=bfloat16)),
            curve={key: [entry.get(key) for entry in shown] for key in shown[-1]},
            final=dict(
                train_loss=curve[-1]["train_loss"],
                test_error=final["error"],
                test_stderr=final["stderr"],
                test_loss=final["loss"],
                # of the test images, in the set's order
                confusion=final["confusion"].tolist(),
                wrong=(final["predicted"] != final["labels"]).nonzero()[:, 0].tolist(),
            )
            | (
                dict(by_n_patches={str(n): dict(test_error=t["error"], test_loss=t["loss"]) for n, t in tests.items()})
                if METHODS[self.method]
                else {}
            ),
            cost=self._cost(model, group.device)
            | dict(train_ms_per_image=1000 * curve[-1]["seconds"] / len(curve) / len(self.loaded.train)),
        )

    def _cost(self, model: nn.Module, device: torch.device) -> dict:
        """Time and peak memory of a forward and backward pass at batch 1 (§4.1.2), in float32.

        Deep MIL is measured as it trains here, in chunks: compare methods by ``benchmarks/cost.py``, in one run.
        """
        image, label = self.loaded.train[0]
        step = training_step(copy.deepcopy(model), image[None].to(device), torch.tensor([label], device=device))
        measured = compare({"step": step}, warmup=1, repetitions=5, device=device)[0]
        return dict(ms_per_sample=measured["ms"], peak_mb=measured["peak_mb"])


def states_of(runs: Sequence[Run], group: Processes) -> dict[Run, str]:
    """Where each run stands, as the first process finds it: ``Run.state``, in all processes the same.

    Another program may write a record between two processes' looks. If each went by its own, one would skip the run and the
    others would wait for it for ever.

    Raises:
        ValueError: a file in the place of a record that is none; in all processes.
    """
    numbers, problem = [0.0] * len(runs), None
    if group.rank == 0:
        for place, run in enumerate(runs):
            try:
                numbers[place] = STATES.index(run.state)
            except (ValueError, OSError) as error:  # the others are to hear of it before this process goes
                numbers[place], problem = len(STATES), problem or error
    found = group.sum(torch.tensor(numbers, dtype=torch.float32, device=group.device)).int().tolist()
    if problem is not None:
        raise problem
    if len(STATES) in found:
        raise ValueError(f"{runs[found.index(len(STATES))].record}: the first process cannot read it")
    return {run: STATES[number] for run, number in zip(runs, found, strict=True)}


def run_of(record: dict, out: Path, data: str | None) -> Run:
    """The run that a record tells of."""
    return Run(
        record["experiment"],
        method=record["method"],
        estimator=record["estimator"],
        order=record["settings"].get("order"),
        n_patches=record["n_patches"],
        seed=record["seed"],
        profile=record["profile"],
        cnn_scale=record["settings"].get("cnn_scale"),
        changes=tuple(record["settings"].get("changes", {}).items()),
        data=data,
        out=out,
    )


def recorded(name: str, out: Path, data: str | None) -> Run:
    """The run whose record is ``OUT/runs/NAME.json``.

    Raises:
        ValueError: no such record, or one of other data than ``data`` gives.
    """
    run = run_of(read_record(out / "runs" / f"{name}.json"), out, data)
    if run.name != name:
        raise ValueError(f"{name}: the record is of {run.name}; for digits of the whole of MNIST name --data")
    return run


def changed(sizes, changes: Sequence[tuple[str, object]]):
    """A profile with other values in some fields, its own or those of its training settings.

    A value given as text is read as what the field holds: ``"0.1"`` for a number, ``"False"``, ``"None"``.

    Raises:
        ValueError: no such field, a text that is no such value, or a field that would be overruled by another.
    """
    of_sizes: dict[str, object] = {}
    of_training: dict[str, object] = {}
    for field, value in changes:
        if field == "seed":
            raise ValueError("setting 'seed': the seed is an argument of its own, --seed")
        if field == "micro_batch_size":
            raise ValueError("setting 'micro_batch_size': no setting of a run, whose result it leaves; --micro-batch-size")
        if field == "epochs" and hasattr(sizes, "updates"):
            raise ValueError("setting 'epochs': this experiment counts updates and works the epochs out; set updates")
        own = field != "training" and field in sizes.__dataclass_fields__
        if not own and (field == "training" or field not in sizes.training.__dataclass_fields__):
            fields = [name for part in (sizes, sizes.training) for name in part.__dataclass_fields__ if name != "training"]
            raise ValueError(f"setting {field!r}: expected one of {', '.join(fields)}")
        part, new = (sizes, of_sizes) if own else (sizes.training, of_training)
        new[field] = _like(part, field, value)
        if field in ("updates", "n_train", "n_test", "n_watch") and new[field] < 1:
            raise ValueError(f"{field}={value}: expected at least 1")
    # At once: one may be allowed only with another, as milestones with the schedule "step".
    return replace(sizes, training=replace(sizes.training, **of_training), **of_sizes)


def _like(part, field: str, value):
    """The value as what this field of a dataclass holds."""
    annotation = type(part).__dataclass_fields__[field].type
    kind, optional = annotation.partition("[")[0].partition(" ")[0], annotation.endswith("| None")
    if not isinstance(value, str) or kind == "str":
        return value
    present = getattr(part, field)
    expected = annotation if present is None else f"a value such as {present!r}"
    try:
        value = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        raise ValueError(f"{field}={value!r}: expected {expected}") from None
    if value is None and optional:
        return None
    if kind in ("int", "float") and type(value) in (int, float):
        if kind == "int" and value != int(value):
            raise ValueError(f"{field}={value}: expected a whole number such as {present}")
        return int(value) if kind == "int" else float(value)
    if type(value).__name__ != kind:
        raise ValueError(f"{field}={value}: expected {expected}")
    return value


def _plain(value) -> str:
    """A value as text, the same for equal numbers: ``0.001``, ``"1e-3"`` and ``"0.0010"`` are one, ``(1, 2)`` and ``"(1,2)"``."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value
    return f"{value:.15g}" if isinstance(value, float) else str(value).replace(" ", "")


class _Snapshots:
    """Weights of a model's attention network, in one small file that grows with training and outlives an interruption."""

    def __init__(self, model: nn.Module, path: Path):
        learns = isinstance(model, AttentionSampling) and next(model.attention.parameters(), None) is not None
        self.network = model.attention if learns else None  # that of uniform sampling has nothing to keep
        self.path = path
        if not path.exists():
            self.take(0)

    def take(self, epoch: float) -> None:
        if self.network is None:
            return
        kept = load_file(self.path) if self.path.exists() else {}
        kept |= {f"{epoch}/{name}": tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        write_whole(self.path, save(kept))


def attention_snapshots(path: str | os.PathLike) -> dict[float, dict[str, torch.Tensor]]:
    """State dicts of a run's attention network, by the epochs of training so far; 0 is before training.

    Whole epochs are of type int. Between them there are some where ``Run.execute`` was asked for several an epoch.

    Args:
        path: ``Run.snapshots``, ``weights/NAME.attention.safetensors``.
    """
    epochs: dict[float, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(path).items():
        epoch, name = key.split("/")
        epochs.setdefault(float(epoch) if "." in epoch else int(epoch), {})[name] = tensor
    return dict(sorted(epochs.items()))


def combinations(settings: Sequence[str]) -> list[tuple[tuple[str, str], ...]]:
    """Changes of settings, each written ``"name=value"`` or ``"name=value,value"``, in all combinations.

    >>> combinations(["entropy_weight=0,0.1", "epochs=3"])
    [(('entropy_weight', '0'), ('epochs', '3')), (('entropy_weight', '0.1'), ('epochs', '3'))]
    >>> combinations(["size=(120,160),(240,320)"])
    [(('size', '(120,160)'),), (('size', '(240,320)'),)]
    >>> combinations([])
    [()]

    Raises:
        ValueError: not written so, or the same name twice.
    """
    values = {}
    for setting in settings:
        name, _, several = setting.partition("=")
        separate = _at_commas(several)
        if not name or not all(separate):
            raise ValueError(f"setting {setting!r}: expected NAME=VALUE, or several values with commas")
        if name in values:
            raise ValueError(f"setting {name!r} stands there twice; for several values write them with commas")
        values[name] = separate
    return list(itertools.product(*([(name, value) for value in several] for name, several in values.items())))


def _at_commas(text: str) -> list[str]:
    """The parts between commas that are in no brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def sweep(
    experiment: str,
    method: Sequence[str] = ("ats",),
    estimator: Sequence[str] = ("systematic",),
    n_patches: Sequence[int] = (10,),
    cnn_scale: Sequence[float] = (1.0,),
    seed: Sequence[int] = (0,),
    changes: Sequence[Sequence[tuple[str, object]]] = ((),),
    **same,
) -> list[Run]:
    """The runs of all combinations, each once; ``same`` are fields that all have in common.

    >>> [run.method for run in sweep("megapixel_mnist", ["ats", "cnn"], n_patches=[5, 10])]
    ['ats', 'ats', 'cnn']
    """
    product = itertools.product(method, estimator, n_patches, cnn_scale, changes, seed)
    names = ("method", "estimator", "n_patches", "cnn_scale", "changes", "seed")
    return list(dict.fromkeys(Run(experiment, **dict(zip(names, values, strict=True)), **same) for values in product))


def _first(dataset, count: int):
    """The first images, on the device if the set is."""
    return dataset.first(count) if isinstance(dataset, InMemory) else Subset(dataset, range(count))


def _fits(dataset, device: torch.device) -> bool:
    """Whether all images take at most 1 GB, or a quarter of what is free on a GPU."""
    room = _free_on_gpu(device) / 4 if device.type == "cuda" else 1e9
    return len(dataset) * dataset[0][0].nbytes <= room


def _free_on_gpu(device: torch.device) -> int:
    """Bytes; what PyTorch keeps of an earlier run for the next tensors is free, too."""
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _timed(action: Callable[[], object]) -> float:
    started = time.monotonic()
    action()
    return time.monotonic() - started
