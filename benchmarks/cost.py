"""What each method costs at the sizes of the paper's tables 1 and 2, measured in one run; and how memory grows with the image.

    python benchmarks/cost.py                       # colon cancer, speed limits, growth
    python benchmarks/cost.py colon_cancer --device cuda --repetitions 20 --json cost.json

Images are random: cost does not depend on what they show. One sample is a forward and a backward pass at batch size 1 in
float32, with the image in memory as uint8. Nothing is written unless ``--json`` names a file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from atslib.experiments.records import hardware, software, write_record
from atslib.models import AttentionSampling, DeepMIL, DownsampledCNN, UniformSampling
from atslib.networks import (
    Classifier,
    ColonCancerAttention,
    IlseFeatures,
    LeNetFeatures,
    MegapixelMNISTAttention,
    MILAttention,
    ResNet8,
    ResNet8Features,
    ResNet16,
    SpeedLimitsAttention,
)
from atslib.profiling import compare, peak_memory, training_step

# What is asked of a ratio to the first method of its table: (method, "ms" or "peak_mb", at least this). The paper's own, on a
# GPU of 2019, are 27, 10, 31 in table 1 (25×, 10×, 30× in its text) and 11, 17 in table 2.
COLON_TARGETS = [("Deep MIL", "ms", 60), ("CNN 1", "ms", 10), ("Deep MIL", "peak_mb", 40)]
SIGNS_TARGETS = [("Deep MIL", "ms", 10), ("Deep MIL", "peak_mb", 17)]
SIDES = (1500, 3000, 6000, 12000)  # of the images whose memory is compared
ESTIMATOR = "des_raj"  # the paper's draws, without replacement


def colon_cancer(variant: str) -> tuple[tuple[int, int], dict[str, nn.Module]]:
    """Table 1: images of 500², view of 100², patches of 27²."""
    sizes = dict(patch_size=27, scale=0.2, estimator=ESTIMATOR)

    def ats(n):
        return AttentionSampling(ColonCancerAttention(), IlseFeatures(), Classifier(512, 2), n_patches=n, **sizes)

    def uniform(n):
        like = ColonCancerAttention()
        return UniformSampling(IlseFeatures(), Classifier(512, 2), n_patches=n, like=like, **sizes)

    return (500, 500), {
        "ATS-10": ats(10),
        "ATS-50": ats(50),
        "U-10": uniform(10),
        "U-50": uniform(50),
        "CNN 1/2": DownsampledCNN(ResNet8(variant=variant), Classifier(32, 2), 0.5),
        "CNN 1": DownsampledCNN(ResNet8(variant=variant), Classifier(32, 2)),
        "Deep MIL": DeepMIL(MILAttention(512), IlseFeatures(), Classifier(512, 2), 27, (50, 50)),
        "Deep MIL, chunks of 100": DeepMIL(MILAttention(512), IlseFeatures(), Classifier(512, 2), 27, (50, 50), chunk=100),
    }


def speed_limits(variant: str) -> tuple[tuple[int, int], dict[str, nn.Module]]:
    """Table 2: images of 960 × 1280, view of 288 × 384, patches of 100²."""
    sizes = dict(patch_size=100, scale=0.3, estimator=ESTIMATOR)

    def features():
        return ResNet8Features(variant=variant)

    def ats(n):
        return AttentionSampling(SpeedLimitsAttention(variant=variant), features(), Classifier(32, 4), n_patches=n, **sizes)

    def uniform(n):
        like = SpeedLimitsAttention(variant=variant)
        return UniformSampling(features(), Classifier(32, 4), n_patches=n, like=like, **sizes)

    return (960, 1280), {
        "ATS-5": ats(5),
        "ATS-10": ats(10),
        "U-5": uniform(5),
        "U-10": uniform(10),
        "CNN .3": DownsampledCNN(ResNet16(variant=variant), Classifier(256, 4), 0.3),
        "CNN .5": DownsampledCNN(ResNet16(variant=variant), Classifier(256, 4), 0.5),
        "CNN 1": DownsampledCNN(ResNet16(variant=variant), Classifier(256, 4)),
        "Deep MIL": DeepMIL(MILAttention(32), features(), Classifier(32, 4), 100, (12, 16)),
    } | (
        # The released network normalises over the batch, so its patches cannot be taken in chunks.
        {"Deep MIL, chunks of 8": DeepMIL(MILAttention(32), features(), Classifier(32, 4), 100, (12, 16), chunk=8)}
        if variant == "paper"
        else {}
    )


TABLES: dict[str, tuple[Callable, list]] = {
    "colon_cancer": (colon_cancer, COLON_TARGETS),
    "speed_limits": (speed_limits, SIGNS_TARGETS),
}


def measure(build: Callable, variant: str, device: torch.device, warmup: int, repetitions: int) -> list[dict]:
    """The methods of one table, each on the same random image."""
    torch.manual_seed(0)
    (height, width), models = build(variant)
    image = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8, device=device)
    label = torch.zeros(1, dtype=torch.long, device=device)
    steps = {name: training_step(model.to(device), image, label) for name, model in models.items()}
    return compare(steps, warmup=warmup, repetitions=repetitions, device=device)


def growth(device: torch.device, constant_scale: bool, sides: tuple[int, ...] = SIDES) -> list[dict]:
    """Peak memory of a step of the Megapixel MNIST model (ten patches) against the side of the image.

    The view of 180² is kept by lowering its scale as the image grows; at a constant scale of 0.12 the attention map grows with
    the image, and memory with it.
    """
    rows = []
    for side in sides:
        torch.manual_seed(0)
        scale = 0.12 if constant_scale else 180 / side
        sizes = dict(patch_size=50, n_patches=10, scale=scale, estimator=ESTIMATOR)
        model = AttentionSampling(MegapixelMNISTAttention(), LeNetFeatures(), Classifier(32, 10), **sizes).to(device)
        image = torch.randint(0, 256, (1, 1, side, side), dtype=torch.uint8, device=device)
        step = training_step(model, image, torch.zeros(1, dtype=torch.long, device=device))
        step()  # what is set up once and kept (a GPU's workspaces) is set up here
        peak = peak_memory(step, device)
        rows.append(dict(side=side, scale=scale, image_mb=image.nbytes / 1e6, beyond_image_mb=(peak - image.nbytes) / 1e6))
        del image, step
    return rows


def show_table(name: str, rows: list[dict], targets: list) -> None:
    first = rows[0]
    print(f"\n{name}: times in ms (median, quartiles), memory in MB; ratios to {first['method']}")
    print(f"{'':26}{'ms':>9}{'quartiles':>19}{'ratio':>8}{'MB':>9}{'ratio':>8}")
    for row in rows:
        quartiles = f"{row['ms_low']:.1f} – {row['ms_high']:.1f}"
        print(
            f"{row['method']:26}{row['ms']:9.1f}{quartiles:>19}{row['ms'] / first['ms']:8.1f}"
            f"{row['peak_mb']:9.1f}{row['peak_mb'] / first['peak_mb']:8.1f}"
        )
    by_name = {row["method"]: row for row in rows}
    for method, quantity, wanted in targets:
        ratio = by_name[method][quantity] / first[quantity]
        what = "the time" if quantity == "ms" else "the memory"
        verdict = "reached" if ratio >= wanted else "NOT reached"
        print(f"  {method} takes {ratio:.1f} times {what} of {first['method']}; at least {wanted} expected: {verdict}")


def show_growth(name: str, rows: list[dict]) -> None:
    print(f"\npeak memory of a step of ATS-10 on Megapixel MNIST, {name}")
    print(f"{'side':>8}{'scale':>9}{'image MB':>11}{'beyond it MB':>15}{'growth':>9}")
    for row in rows:
        grown = row["beyond_image_mb"] / rows[0]["beyond_image_mb"] - 1
        print(f"{row['side']:8}{row['scale']:9.4f}{row['image_mb']:11.1f}{row['beyond_image_mb']:15.2f}{grown:+9.1%}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help=f"{', '.join(TABLES)}, growth (default: all)")
    parser.add_argument("--variant", choices=["paper", "released"], default="paper", help="of the networks (default: paper)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="on the CPU; take 1 on a busy machine"
    )
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured to FILE")
    args = parser.parse_args(arguments)
    unknown = set(args.what) - {*TABLES, "growth"}
    if unknown:
        parser.error(f"unknown {', '.join(sorted(unknown))}: expected {', '.join(TABLES)} or growth")
    if args.threads < 1:
        parser.error(f"--threads {args.threads}: expected at least 1")
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    what = args.what or [*TABLES, "growth"]
    record = dict(
        benchmark="cost", variant=args.variant, repetitions=args.repetitions, hardware=hardware(device), software=software()
    )
    print(f"{record['hardware']['name']}, {record['hardware']['threads']} threads, torch {record['software']['torch']}")
    for name in what:
        if name == "growth":
            record["growth"] = growth(device, constant_scale=False)
            show_growth("view kept at 180²", record["growth"])
            record["growth_constant_scale"] = growth(device, constant_scale=True)
            show_growth("scale kept at 0.12", record["growth_constant_scale"])
        else:
            build, targets = TABLES[name]
            record[name] = measure(build, args.variant, device, args.warmup, args.repetitions)
            show_table(name, record[name], targets)
        sys.stdout.flush()
    if args.json:
        print(f"\n{write_record(args.json, record)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
