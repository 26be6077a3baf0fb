"""What it saves to compute the features of equal patches once (``AttentionSampling.share_equal``), in training.

    python benchmarks/equal_patches.py
    python benchmarks/equal_patches.py --threads 1 --json results/cost/equal_patches.json

A trained network of Megapixel MNIST at the paper's size, with the attention it had after some epochs, and uniform sampling with
its features: how many different patches the draws of a batch show, and a training step on that batch with and without sharing,
one after the other in each repetition. Then uniform sampling of random pixels, where no two patches are equal: what it costs to
look for equal ones in vain.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from atslib.experiments import megapixel_mnist
from atslib.experiments.records import hardware, read_record, software, write_record
from atslib.experiments.runs import attention_snapshots, run_of
from atslib.memory import keep_freed_memory
from atslib.models import AttentionSampling, UniformSampling
from atslib.patches import distinct_patches
from atslib.profiling import compare, training_step

RUN = "megapixel_mnist-ats-systematic-n10-seed0-laptop-entropy_weight_0.001-epochs_15-full"
EPOCHS = (0, 2, 4, 6, 15)
COUNTS = (5, 10, 25, 50, 100)


def models(results: Path, epochs: Sequence[int]) -> Iterator[tuple[str, AttentionSampling]]:
    """The network with its attention after each of these epochs (0: before training), and without attention."""
    run = run_of(read_record(results / "runs" / f"{RUN}.json"), results, "generated")  # for its networks, not for its digits
    weights = load_file(results / "weights" / f"{RUN}.safetensors")
    snapshots = attention_snapshots(results / "weights" / f"{RUN}.attention.safetensors")
    for epoch in epochs:
        model = run.build()
        model.load_state_dict(weights)
        model.attention.load_state_dict(snapshots[epoch])
        yield f"epoch {epoch}", model
    yield "uniform", UniformSampling(model.features, model.classifier, like=model.attention, estimator="des_raj")


@torch.no_grad()
def distinct(model: AttentionSampling, images: Tensor, n: int) -> dict[str, float]:
    """Of the N patches of each image, mean over a batch: how many lie at different locations, and how many show different things,
    there and in the whole batch."""
    out = model(images, n_patches=n, return_patches=True, generator=torch.Generator(images.device).manual_seed(n))
    each = [len(distinct_patches(patches)[0]) for patches in out.patches]
    return dict(
        locations=sum(len(index.unique()) for index in out.index) / len(images),
        patches=sum(each) / len(images),
        patches_in_batch=len(distinct_patches(out.patches.flatten(0, 1))[0]) / len(images),
    )


def measure(model: AttentionSampling, images: Tensor, n: int, repetitions: int) -> dict:
    """Milliseconds and peak memory of a training step with equal patches computed once, and with each patch by itself."""
    step = training_step(model, images, torch.zeros(len(images), dtype=torch.long, device=images.device), n_patches=n)

    def sharing(share: bool) -> Callable[[], None]:
        def run() -> None:
            model.share_equal = share
            step()

        return run

    rows = compare(dict(shared=sharing(True), each=sharing(False)), repetitions=repetitions, device=images.device)
    return {row["method"]: {key: row[key] for key in ("ms", "ms_low", "ms_high", "peak_mb")} for row in rows}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="on the CPU; take 1 on a busy machine")
    parser.add_argument("--batch", type=int, default=4, help="images in a step (default: 4)")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--epochs", type=int, nargs="+", default=EPOCHS, help=f"of whose attention (default: {EPOCHS})")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help=f"numbers of patches (default: {COUNTS})")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the trained network")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured to FILE")
    args = parser.parse_args(arguments)
    if args.threads < 1 or args.batch < 1:
        parser.error(f"--threads {args.threads} --batch {args.batch}: expected at least 1 each")
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    device = torch.device(args.device)
    record = dict(benchmark="equal_patches", run=RUN, batch=args.batch, hardware=hardware(device), software=software(), points=[])
    print(f"{record['hardware']}, torch {record['software']['torch']}; a training step on {args.batch} images")
    print("attention       N  locations  distinct  shared ms  each ms   each/shared: time  memory")
    tests = megapixel_mnist.build_data("laptop")[1]
    digits = torch.stack([tests[number][0] for number in range(args.batch)]).to(device)
    random = torch.randint(0, 256, digits.shape, dtype=torch.uint8, device=device)
    for name, model in models(args.results, args.epochs):
        model = model.to(device, memory_format=torch.channels_last)
        for what, images in (("digits", digits), *([("random", random)] if name == "uniform" else [])):
            for n in args.counts:
                point = dict(attention=name, images=what, n=n) | distinct(model, images, n)
                point |= measure(model, images, n, args.repetitions)
                record["points"].append(point)
                (ms, mb), (each_ms, each_mb) = ((point[key]["ms"], point[key]["peak_mb"]) for key in ("shared", "each"))
                print(
                    f"{name if what == 'digits' else what:12}{n:5}{point['locations']:11.1f}{point['patches_in_batch']:10.1f}"
                    f"{ms:11.0f}{each_ms:9.0f}{each_ms / ms:20.2f}{each_mb / mb:8.2f}",
                    flush=True,
                )
    if args.json:
        print(f"\n{write_record(args.json, record)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
