"""Time and memory of every method against the size of the image, the number of patches and their size, in one run.

    python benchmarks/cost_by_size.py --threads 1                                        # prints, writes nothing
    python benchmarks/cost_by_size.py --threads 1 --json results/cost/by_size.json       # writes the record
    python benchmarks/cost_by_size.py time kept --threads 1 --json results/cost/by_size.json   # these parts anew, the rest kept

The networks are those of Megapixel MNIST; images are random. One sample is a forward and a backward pass at batch size 1 in
float32. What would take more memory or time than the limits is not timed, and says so.

Parts: ``memory``, the most that tensors hold at a time (does not depend on what else the machine does); ``time``, elapsed and, on
the CPU, the processor time of this program, which other programs disturb less; ``kept``, how much faster training is when the
program keeps freed memory (:mod:`atslib.memory`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from atslib.data import MegapixelMNIST
from atslib.experiments import megapixel_mnist
from atslib.experiments.records import hardware, software, write_record
from atslib.loading import InMemory
from atslib.memory import keep_freed_memory
from atslib.models import AttentionSampling, DeepMIL, DownsampledCNN, UniformSampling
from atslib.networks import Classifier, LeNetFeatures, MegapixelMNISTAttention, MILAttention, ResNet16
from atslib.profiling import MB, peak_memory, training_step
from atslib.training import train

SIDES = (500, 1000, 1500, 3000, 6000, 12000)  # 0.25 to 144 megapixels
COUNTS = (1, 2, 5, 10, 25, 50, 100, 200)  # patches, on images of 1500²
PATCHES = (25, 50, 100, 200)  # their sides, ten on images of 1500²
PARTS = ("memory", "time", "kept")
CPU = torch.device("cpu")
VIEW, SCALE = 180, 0.12  # side of the view where it is fixed; its scale where that is


def sampling(side: int, n_patches: int, patch_size: int, scale: float) -> AttentionSampling:
    sizes = dict(patch_size=patch_size, n_patches=n_patches, scale=scale, estimator="systematic")
    return AttentionSampling(MegapixelMNISTAttention(), LeNetFeatures(), Classifier(32, 10), **sizes)


def uniform(side: int, n_patches: int, patch_size: int) -> UniformSampling:
    sizes = dict(patch_size=patch_size, n_patches=n_patches, scale=VIEW / side, estimator="systematic")
    return UniformSampling(LeNetFeatures(), Classifier(32, 10), like=MegapixelMNISTAttention(), **sizes)


def deep_mil(side: int, patch_size: int, chunk: int | None) -> DeepMIL:
    grid = (2 * side // patch_size,) * 2  # a patch every half patch (§4.1.2)
    return DeepMIL(MILAttention(32), LeNetFeatures(), Classifier(32, 10), patch_size, grid, chunk)


def cnn(scale: float) -> DownsampledCNN:
    return DownsampledCNN(ResNet16(1), Classifier(256, 10), scale)


GROWING = ("CNN 1/2", "CNN 1", "Deep MIL")  # methods that keep activations of every pixel or patch

# (side of the image, patches, side of a patch) -> model
METHODS: dict[str, Callable] = {
    "ATS, view fixed": lambda side, n, patch: sampling(side, n, patch, VIEW / side),
    "ATS, view at hand": lambda side, n, patch: sampling(side, n, patch, VIEW / side),
    "ATS, scale fixed": lambda side, n, patch: sampling(side, n, patch, SCALE),
    "uniform": lambda side, n, patch: uniform(side, n, patch),
    "CNN 1/2": lambda side, n, patch: cnn(0.5),
    "CNN 1": lambda side, n, patch: cnn(1.0),
    "Deep MIL": lambda side, n, patch: deep_mil(side, patch, None),
    "Deep MIL, chunks of 100": lambda side, n, patch: deep_mil(side, patch, 100),
}


def points(sides: Iterable[int] = SIDES, counts: Iterable[int] = COUNTS, patches: Iterable[int] = PATCHES) -> list[dict]:
    """What is measured, series by series, each in rising order."""
    series = [dict(series="side", method=method, side=side, n=10, patch=50) for method in METHODS for side in sides]
    for method in ("ATS, view fixed", "uniform"):
        series += [dict(series="n", method=method, side=1500, n=n, patch=50) for n in counts]
    return series + [dict(series="patch", method="ATS, view fixed", side=1500, n=10, patch=patch) for patch in patches]


def prepare(point: dict, device: torch.device):
    """Model, image, label and options of a point."""
    torch.manual_seed(0)
    with device:
        model = METHODS[point["method"]](point["side"], point["n"], point["patch"])
    image = torch.randint(0, 256, (1, 1, point["side"], point["side"]), dtype=torch.uint8, device=device)
    # Where the image lies in a pyramid of resolutions, its view need not be computed.
    options = dict(low=torch.rand(1, 1, VIEW, VIEW, device=device)) if point["method"].endswith("at hand") else {}
    return model, image, torch.zeros(1, dtype=torch.long, device=device), options


def measure_memory(point: dict, device: torch.device) -> dict:
    """Peak memory of a step. On the CPU, that of a method that draws nothing is counted from shapes, without computing."""
    counted = device.type == "cpu" and point["method"] in (*GROWING, "Deep MIL, chunks of 100")
    with FakeTensorMode() if counted else nullcontext():
        model, image, label, options = prepare(point, device)
        step = training_step(model, image, label, **options)
        if not counted:
            step()  # what is set up once and kept (the curve through a map, a GPU's workspaces) is set up here
        return dict(peak_mb=peak_memory(step, device) / MB, image_mb=image.nbytes / MB, counted=counted)


def measure_time(point: dict, device: torch.device, enough: float = 2.0) -> dict:
    """Median of up to seven steps, as many as ``enough`` seconds allow, the first not counted if there are others.

    On images of 1500² with another number of patches also of a forward pass alone, as in use.
    """
    model, image, label, options = prepare(point, device)
    row = _timed(training_step(model, image, label, **options), device, enough)
    if point["series"] == "n":

        @torch.no_grad()
        def forward() -> None:
            model(image, **options)

        row["forward"] = _timed(forward, device, enough)
    return row


def _timed(step: Callable[[], None], device: torch.device, enough: float) -> dict:
    spent = 1 if device.type == "cpu" else 0  # of (elapsed, processor): waiting for other programs does not count
    times = [_both_times(step, device)]
    if times[0][spent] < enough:  # else it was long enough for set-up not to matter
        times = [_both_times(step, device)]
        while len(times) < 7 and sum(pair[spent] for pair in times) < enough:
            times.append(_both_times(step, device))
    elapsed, processor = ([1000 * value for value in values] for values in zip(*times))
    row = dict(ms=statistics.median(elapsed), ms_low=min(elapsed), ms_high=max(elapsed), repetitions=len(times))
    if device.type == "cpu":  # of all threads
        row["cpu_ms"] = statistics.median(processor)
    return row


def _both_times(step: Callable[[], None], device: torch.device) -> tuple[float, float]:
    started = time.process_time()
    elapsed, _ = _seconds(step, device)
    return elapsed, time.process_time() - started


def _seconds(function: Callable, device: torch.device) -> tuple[float, object]:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    result = function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started, result


def sweep(what: str, todo: list[dict], device: torch.device, limit_mb: float, limit_s: float, report=lambda row: None) -> list:
    """Measure the ``"memory"`` or the ``"time"`` of the points.

    A point holds ``skipped`` instead where it would exceed a limit: ``"memory"``, counted from shapes, or ``"time"``, foretold
    from the size before in proportion to the pixels.
    """
    measure = dict(memory=measure_memory, time=measure_time)[what]
    rows: list[dict] = []
    seconds = 0.0  # of the point before
    for before, point in zip([None, *todo], todo):
        same = before is not None and all(before[key] == point[key] for key in ("series", "method"))
        seconds *= (point["side"] / before["side"]) ** 2 if same else 0
        row = dict(point)
        must_compute = what == "time" or device.type != "cpu"
        if must_compute and point["method"] in GROWING and measure_memory(point, CPU)["peak_mb"] > limit_mb:
            row["skipped"] = "memory"
        elif seconds > limit_s:
            row["skipped"] = "time"
        else:
            started = time.process_time()
            row |= measure(point, device)
            seconds = row.get("cpu_ms", row["ms"]) / 1000 if what == "time" else time.process_time() - started
        rows.append(row)
        report(row)
    return rows


def kept(pairs: int = 3, images: int = 64) -> dict:
    """Processor time and elapsed time of training Megapixel MNIST, an image, with and without keeping freed memory.

    Each is a program of its own, in turn; each says the median of two epochs after a first.
    """
    runs: dict[str, list[dict]] = dict(returned=[], kept=[])
    for _ in range(pairs):
        for how, done in runs.items():
            outcome = subprocess.run(
                [sys.executable, __file__, "_train", how, str(images), str(torch.get_num_threads())],
                capture_output=True,
                text=True,
                check=True,
            )
            done.append(json.loads(outcome.stdout))
    return dict(available=all(run["kept"] for run in runs["kept"]), libc=" ".join(platform.libc_ver()), images=images, **runs)


def train_once(how: str, images: int, threads: int) -> None:
    """What :func:`kept` starts."""
    torch.set_num_threads(threads)
    could = keep_freed_memory() if how == "kept" else False
    torch.manual_seed(0)
    model, laptop = megapixel_mnist.build_model(10), megapixel_mnist.PROFILES["laptop"]
    data = InMemory(MegapixelMNIST("train", images, laptop.size, n_noise=laptop.n_noise))
    one_epoch = replace(laptop.training, epochs=1, schedule="constant")
    times = []
    for _ in range(3):
        times.append(_both_times(lambda: train(model, data, None, one_epoch, progress=False), torch.device("cpu")))
    elapsed, processor = (1000 * statistics.median(values) / images for values in zip(*times[1:]))
    print(json.dumps(dict(kept=could, ms_per_image=elapsed, cpu_ms_per_image=processor)))


def show(row: dict) -> None:
    where = f"{row['method']:26}{row['side']:>7}²{row['n']:>5} patches of {row['patch']:>3}²"
    if "skipped" in row:
        print(f"{where}  left out: too much {row['skipped']}")
    elif "peak_mb" in row:
        how = ", counted" if row["counted"] else ""
        print(f"{where}{row['peak_mb']:>10.1f} MB, {row['image_mb']:.1f} of it the image{how}")
    else:
        own = f", {row['cpu_ms']:.1f} of the processor" if "cpu_ms" in row else ""
        print(f"{where}{row['ms']:>10.1f} ms{own}, {row['repetitions']} times")
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="on the CPU; take 1 on a busy machine"
    )
    parser.add_argument("--limit-mb", type=float, default=6000, help="leave out what takes more memory (default: 6000)")
    parser.add_argument("--limit-s", type=float, default=30, help="leave out steps that take longer (default: 30)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured to FILE, other parts in it are kept")
    args = parser.parse_args(arguments)
    unknown = set(args.what) - set(PARTS)
    if unknown:
        parser.error(f"unknown {', '.join(sorted(unknown))}: expected {', '.join(PARTS)}")
    if args.threads < 1:
        parser.error(f"--threads {args.threads}: expected at least 1")
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    for part in args.what or PARTS:
        result = measured(part, device, args.limit_mb, args.limit_s, show)
        if args.json:
            record = json.loads(args.json.read_text(encoding="utf-8")) if args.json.exists() else {}
            write_record(args.json, record | {"benchmark": "cost_by_size", part: result})
    if args.json:
        print(args.json)
    return 0


def measured(part: str, device: torch.device, limit_mb: float, limit_s: float, report=lambda row: None, todo=None) -> dict:
    """One part of the record: what was measured, where, and how busy the machine was."""
    before, started = _load(), time.perf_counter()
    if part == "kept":
        result = kept()
        report_kept(result)
    else:
        result = dict(limit_mb=limit_mb, limit_s=limit_s)
        result["points"] = sweep(part, points() if todo is None else todo, device, limit_mb, limit_s, report)
    machine = hardware(device) | dict(cores=os.cpu_count(), load_before=before, load_after=_load())
    return dict(hardware=machine, software=software(), wall_seconds=round(time.perf_counter() - started, 1)) | result


def report_kept(result: dict) -> None:
    for how in ("returned", "kept"):
        print(f"freed memory {how}: " + ", ".join(f"{run['cpu_ms_per_image']:.2f}" for run in result[how]) + " ms an image")


def _load() -> float | None:
    """Programs that wanted to run, mean over the last minute; this one is among them."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


if __name__ == "__main__":
    if sys.argv[1:2] == ["_train"]:
        train_once(sys.argv[2], *map(int, sys.argv[3:]))
        sys.exit()
    sys.exit(main())
