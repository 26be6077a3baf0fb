"""Run the paper's experiments: ``python -m atslib.experiments megapixel_mnist --profile smoke``.

Several methods, numbers of patches, estimators and seeds, with commas between them, make a sweep; what has a record is skipped,
and so is what another program is at: start a sweep twice (the second time with ``--resume``), and two share the work.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm.auto import tqdm

from atslib.estimators import ESTIMATORS
from atslib.experiments.parts import METHODS
from atslib.experiments.runs import EXPERIMENTS, ORDERED, ORDERS, Run, combinations, states_of, sweep
from atslib.memory import keep_freed_memory, return_freed_memory_when_short
from atslib.processes import processes

DONE, REFUSED, STOPPED = 0, 2, 3  # exit codes


def main(arguments: list[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    started = time.monotonic()
    names = ("method", "estimator", "n_patches", "cnn_scale", "seed", "order", "profile", "data", "out")
    keep_freed_memory()
    try:
        runs = sweep(args.name, changes=combinations(args.set), **{name: getattr(args, name) for name in names})
        group = processes(args.device)
        report = (lambda line: print(line, flush=True)) if group.rank == 0 else (lambda line: None)
        states = states_of(runs, group)
        if args.dry_run:
            _dry_run(runs, states, group, report, args.micro_batch_size)
            return DONE
        begun = [run for run, state in states.items() if state == "begun"]
        if begun and not args.resume:
            print(f"{begun[0].checkpoint} is there: go on with --resume, or delete it to start anew", file=sys.stderr)
            return REFUSED
        outcome = DONE
        for number, run in enumerate(runs, start=1):
            if states[run] == "done":
                if group.rank == 0:  # on another machine the record may not be seen yet
                    others = run.differences()
                    report(f"{run.record} is there: skipped" + (f" (made with {', '.join(others)})" if others else ""))
                continue
            with run.claimed(group) as state:  # as it is now, which may be other than at the beginning
                if state == "busy":
                    report(f"{run.name}: another program is at it: skipped")
                    outcome = outcome or STOPPED
                    continue
                if state == "done":
                    report(f"{run.record} is there by now: skipped")
                    continue
                report(f"{run.name} ({number} of {len(runs)}), {run.loaded.name}")
                try:
                    finished = run.execute(
                        group,
                        max_seconds=args.max_seconds - (time.monotonic() - started),
                        save_every=args.save_every,
                        workers=args.workers,
                        in_memory=args.in_memory,
                        compile=args.compile,
                        chunk=args.chunk,
                        micro_batch_size=args.micro_batch_size,
                        snapshots_per_epoch=args.snapshots_per_epoch,
                        report=report,
                    )
                except (FloatingPointError, ValueError) as error:  # it would fail again: the others are not to wait for it
                    if group.world > 1 and isinstance(error, ValueError):  # of which another process may know nothing
                        raise
                    print(f"error: {run.name}: {error}", file=sys.stderr)
                    outcome = REFUSED
                    continue
            if not finished:
                return STOPPED
        return outcome
    except (ValueError, ImportError, FloatingPointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED


def _device(name: str) -> str:
    """A device that is there, or one line that says why not."""
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        lacks = ", which lacks the float64 in which locations are drawn" if device is not None and device.type == "mps" else ""
        raise argparse.ArgumentTypeError(f"{name!r}{lacks}: expected cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise argparse.ArgumentTypeError(f"{name!r}: PyTorch sees {count or 'no'} GPU{'s' * (count > 1)} here")
    return name


def _dry_run(runs: list[Run], states: dict[Run, str], group, report: Callable[[str], None], micro_batch_size: int | None) -> None:
    total = 0.0
    for run in runs:
        sizes = run.estimate(group, micro_batch_size)
        total += sizes["seconds"] if states[run] != "done" else 0
        report(
            f"{run.name}: {states[run]}\n"
            f"  data        {run.loaded.name}, {sizes['images']} pixels\n"
            f"  parameters  {sizes['parameters']:,}\n"
            f"  steps       {sizes['steps']} images, {sizes['seconds_per_step']:.3f} s each on {group.device}\n"
            f"  time        about {tqdm.format_interval(sizes['seconds'])}, tests during training included"
        )
    to_do = sum(state != "done" for state in states.values())
    report(f"{to_do} of {len(runs)} to do, about {tqdm.format_interval(total)} from their beginning")


def _several(kind: Callable, allowed=None) -> Callable[[str], list]:
    """Of an argument with commas in it."""

    def parse(text: str) -> list:
        try:
            values = [kind(part) for part in text.split(",")]
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: expected {kind.__name__}, or several with commas between") from error
        for value in values:
            if allowed is not None and value not in allowed:
                raise argparse.ArgumentTypeError(f"{value!r}: expected one of {', '.join(allowed)}, or several with commas")
            if kind is not str and not value >= 0:
                raise argparse.ArgumentTypeError(f"{value!r}: expected at least 0")
        return values

    return parse


def _seconds(text: str) -> float:
    try:
        if (value := float(text)) >= 0:
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r}: expected a number of seconds, at least 0")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m atslib.experiments", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("name", choices=EXPERIMENTS)
    several = _several(str, METHODS)
    add("--method", type=several, default=["ats"], metavar="M", help=f"{', '.join(METHODS)} (default: ats)")
    add("--n-patches", type=_several(int), default=[10], metavar="N", help="patches per image; of nested, regions (default: 10)")
    several = _several(str, ESTIMATORS)
    add("--estimator", type=several, default=["systematic"], metavar="E", help=f"{', '.join(ESTIMATORS)} (default: systematic)")
    add("--order", choices=ORDERS, default="hilbert", help=f"curve through the map, for {', '.join(ORDERED)}")
    add("--cnn-scale", type=_several(float), default=[1.0], metavar="S", help="of the image that the CNN sees (default: 1)")
    add("--seed", type=_several(int), default=[0], metavar="S", help="default: 0")
    add("--profile", default="smoke", help="smoke, laptop, paper; for some also small, large, windows, find (default: smoke)")
    add("--set", action="append", default=[], metavar="NAME=V", help="change a setting of the profile; V,V for several")
    add("--data", metavar="DIR", help="data root, or 'generated' for stand-ins (default: real photographs where they are found)")
    add("--out", type=Path, default=Path("results"), metavar="DIR", help="folder for runs/, weights/, checkpoints/")
    add("--device", type=_device, default="cuda" if torch.cuda.is_available() else "cpu")
    add("--workers", type=int, default=0, metavar="W", help="processes that read images ahead (default: 0)")
    add("--in-memory", action=argparse.BooleanOptionalAction, help="keep all images on the device (default: if they are few)")
    add("--compile", action="store_true", help="run the model through torch.compile")
    told = "patches Deep MIL holds at a time; 0: all, faster, more memory (default: 512; all under batch normalisation)"
    add("--chunk", type=int, metavar="C", help=told)
    told = "images seen at a time, for less memory; the result is the same (default: all of a step)"
    add("--micro-batch-size", type=int, metavar="M", help=told)
    add("--snapshots-per-epoch", type=int, default=1, metavar="K", help="how often the attention network is kept (default: 1)")
    add("--max-seconds", type=_seconds, default=math.inf, metavar="T", help="stop after T seconds, with a checkpoint")
    add("--save-every", type=_seconds, default=300, metavar="T", help="seconds between checkpoints (default: 300)")
    add("--resume", action="store_true", help="go on from the checkpoint")
    add("--dry-run", action="store_true", help="say how large it is and, from a few steps, how long it will take")
    return parser


if __name__ == "__main__":
    return_freed_memory_when_short()
    sys.exit(main())
