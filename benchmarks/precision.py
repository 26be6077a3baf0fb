"""What bfloat16 autocast saves or costs on this device: steps of each experiment's attention sampling in both precisions.

    python benchmarks/precision.py
    python benchmarks/precision.py --threads 1 --json precision.json

``has_bfloat16`` decides which one training takes where its settings leave it open; a line says whether it chose the faster.
Images are random: cost does not depend on what they show.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from atslib.experiments import colon_cancer, megapixel_mnist, speed_limits
from atslib.experiments.records import hardware, software, write_record
from atslib.precision import has_bfloat16
from atslib.profiling import compare, training_step

IMAGES = {  # model, and images (channels, height, width), of a profile of each experiment
    "Megapixel MNIST, ATS-10": (lambda: megapixel_mnist.build_model(10), (1, 1500, 1500)),
    "colon cancer, ATS-10": (lambda: colon_cancer.build_model(10, profile="laptop"), (3, 500, 500)),
    "speed limits, ATS-5": (lambda: speed_limits.build_model(5, profile="windows"), (3, 480, 640)),
}


def in_bfloat16(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    def autocast() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            step()

    return autocast


def measure(build: Callable[[], nn.Module], shape: tuple[int, ...], device: torch.device, batch: int, repetitions: int) -> dict:
    """Milliseconds of a step on a batch in float32 and in bfloat16, one after the other in each repetition."""
    torch.manual_seed(0)
    model = build().to(device, memory_format=torch.channels_last)
    images = torch.randint(0, 256, (batch, *shape), dtype=torch.uint8, device=device)
    step = training_step(model, images, torch.zeros(batch, dtype=torch.long, device=device))
    steps = {"float32": step, "bfloat16": in_bfloat16(step, device)}
    return {row["method"]: row["ms"] for row in compare(steps, repetitions=repetitions, device=device, memory=False)}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="on the CPU; take 1 on a busy machine")
    parser.add_argument("--batch", type=int, default=4, help="images in a step (default: 4)")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured to FILE")
    args = parser.parse_args(arguments)
    if args.threads < 1 or args.batch < 1:
        parser.error(f"--threads {args.threads} --batch {args.batch}: expected at least 1 each")
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    record = dict(benchmark="precision", has_bfloat16=has_bfloat16(device), hardware=hardware(device), software=software())
    print(f"{record['hardware']}, torch {record['software']['torch']}; has_bfloat16: {record['has_bfloat16']}")
    print(f"{'':26}{'float32 ms':>12}{'bfloat16 ms':>13}{'ratio':>8}")
    record["steps"] = {}
    for name, (build, shape) in IMAGES.items():
        ms = record["steps"][name] = measure(build, shape, device, args.batch, args.repetitions)
        chosen, other = ("bfloat16", "float32") if record["has_bfloat16"] else ("float32", "bfloat16")
        verdict = "the faster is chosen" if ms[chosen] <= ms[other] else "the SLOWER is chosen"
        print(f"{name:26}{ms['float32']:12.0f}{ms['bfloat16']:13.0f}{ms['bfloat16'] / ms['float32']:8.2f}  {verdict}", flush=True)
    if args.json:
        print(f"\n{write_record(args.json, record)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
