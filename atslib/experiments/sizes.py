"""Trained networks on larger images than they were trained on: ``python -m atslib.experiments.sizes NAME --sizes 1500,31700``.

Convolutions and attention do not care how large an image is, so a network that was trained on images of one size can look at
any. What changes is how much empty ground competes for its attention. For Megapixel MNIST, models ``ats`` and ``nested``: error,
time, and the share of attention that falls where a digit can be seen, on images with as many pieces in them as in training, and
more room between. An image has the same digits at every size. Written to ``OUT/sizes/NAME.json``; sizes that are there already
are kept; what another machine has measured, or other weights, is neither added to nor overwritten.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

import torch
from jaxtyping import Bool
from safetensors.torch import load_file
from torch import Tensor

from atslib.data.files import files_digest
from atslib.data.megapixel_mnist import GLYPH, MegapixelMNIST
from atslib.experiments.records import hardware, kept, note_parts, software, write_record
from atslib.experiments.runs import Run, recorded
from atslib.memory import keep_freed_memory
from atslib.models import AttentionSampling
from atslib.patches import PatchGeometry

SIZES = (1500, 4000, 12_000, 31_700)  # the last has a gigapixel


def shows_a_digit(geometry: PatchGeometry, corners: Tensor) -> Bool[Tensor, "h w"]:
    """Of which locations does the patch, or the region, show a digit whole?

    Args:
        geometry: of the attention map.
        corners: row and column of each digit's first pixel, ``(digits, 2)``; a digit has 28 × 28 pixels.
    """
    height, width = geometry.map_size
    patch = geometry.patch_size if isinstance(geometry.patch_size, tuple) else (geometry.patch_size,) * 2
    tops = geometry.top_left(torch.arange(height)[None] * width)[0, :, 0].contiguous()
    lefts = geometry.top_left(torch.arange(width)[None])[0, :, 1].contiguous()
    shows = torch.zeros(height, width, dtype=torch.bool)
    for row, column in corners.tolist():
        down, across = (
            slice(*torch.searchsorted(starts, torch.tensor([place + GLYPH - side, place + 1])).tolist())
            for starts, place, side in ((tops, row, patch[0]), (lefts, column, patch[1]))
        )
        shows[down, across] = True
    return shows


@torch.no_grad()
def measure(model: AttentionSampling, tests: MegapixelMNIST) -> dict:
    """Error and attention on these images, and the time that an image takes; means over them.

    Returns:
        ``error`` and ``stderr`` (binomial), ``n``; ``wrong``, the numbers of the images answered wrongly; ``mass``, the
        attention on locations that show a digit whole, and ``uniform``, their share of all; ``view_ms``, making the view from
        the pixels, and ``look_ms``, all that follows, medians.
    """
    model.eval()
    draws = torch.Generator().manual_seed(0)
    wrong, mass, uniform, view_ms, look_ms = [], [], [], [], []
    for number in range(len(tests)):
        image, label = tests[number]
        times = [time.perf_counter()]
        low = model.view(image[None])
        times.append(time.perf_counter())
        out = model(image[None], low, generator=draws)
        wrong += [number] if out.logits.argmax().item() != label else []
        times.append(time.perf_counter())
        shows = shows_a_digit(
            model.geometry(image[None], low, out.log_attention), torch.as_tensor(tests.layout(number).digit_corners)
        )
        mass.append(out.log_attention[0].exp()[shows].sum().item())
        uniform.append(shows.double().mean().item())
        view_ms.append(1000 * (times[1] - times[0]))
        look_ms.append(1000 * (times[2] - times[1]))
    error = len(wrong) / len(tests)
    return dict(
        size=tests.size[0],
        n=len(tests),
        error=error,
        stderr=math.sqrt(error * (1 - error) / len(tests)),
        wrong=wrong,
        **{key: sum(values) / len(values) for key, values in (("mass", mass), ("uniform", uniform))},
        **{key: sorted(values)[len(values) // 2] for key, values in (("view_ms", view_ms), ("look_ms", look_ms))},
    )


def trained(run: Run) -> AttentionSampling:
    """The model of a run that has been made, with its weights.

    Raises:
        ValueError: a run of another experiment or method.
        FileNotFoundError: no weights.
    """
    if run.experiment != "megapixel_mnist" or run.method not in ("ats", "nested"):
        raise ValueError(f"{run.name}: expected a run of megapixel_mnist with method ats or nested")
    if not run.weights.exists():
        raise FileNotFoundError(f"{run.weights}: no weights of this run; make them with `python -m atslib.experiments`")
    model = run.build()
    model.load_state_dict(load_file(run.weights))
    return model


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m atslib.experiments.sizes", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", metavar="NAME", help="of a record in OUT/runs, without its suffix")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="sides of the images (default: %(default)s)")
    parser.add_argument("--images", type=int, default=100, metavar="N", help="of each size (default: 100)")
    parser.add_argument("--data", metavar="DIR", help="data root, for runs with the whole of MNIST")
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="DIR", help="folder of runs/ and weights/")
    args = parser.parse_args(arguments)
    try:
        sizes = [int(size) if size.isdecimal() else 0 for size in args.sizes.split(",")]
        if args.images < 1 or min(sizes) < 1:
            raise ValueError(f"--images {args.images} --sizes {args.sizes}: expected whole numbers of at least 1")
        keep_freed_memory()
        for name in args.names:
            run = recorded(name, args.out, args.data)
            model, like = trained(run), run.loaded.test
            path = args.out / "sizes" / f"{name}.json"
            here = dict(hardware=hardware(torch.device("cpu")), software=software())
            about = dict(weights=files_digest([run.weights]), hardware=here["hardware"])  # times of two machines do not compare
            record = dict(run=name, weights=about["weights"]) | kept(path, "sizes", about)
            done = record.get("sizes", [])
            for size in sizes:
                if any((row["size"], row["n"]) == (size, args.images) for row in done):
                    continue
                digits = like.digit_images, like.digit_classes
                tests = MegapixelMNIST("test", args.images, size, n_noise=like.n_noise, digits=digits)
                row = measure(model, tests)
                note_parts(record, here, [d["size"] for d in done], [size])
                record["sizes"] = done = sorted([*(d for d in done if d["size"] != size), row], key=lambda d: d["size"])
                write_record(path, record)
                print(name, "  ".join(f"{key} {value:.4g}" for key, value in row.items() if key != "wrong"), flush=True)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
