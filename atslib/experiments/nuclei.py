"""Does attention lie on epithelial nuclei? Numbers for what figures 4 and 8 of the paper show (§4.3.2).

``python -m atslib.experiments.nuclei --data DIR`` measures all trained models of the colon cancer images in ``results/``, or
those that are named, on the positive images of their test fold, and writes ``results/nuclei/NAME.json``: numbers only, no image
and no annotation.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from safetensors.torch import load_file, save
from torch import Tensor

from atslib.data import ColonCancer, DataError
from atslib.data.files import files_digest
from atslib.experiments.records import kept, read_record, write_record, write_whole
from atslib.experiments.runs import Run, attention_snapshots, run_of

RADIUS = 13  # pixels, half a patch: a nucleus that near to a patch's centre is in the patch


def agreement(
    attention: Float[Tensor, "h w"],
    image_size: tuple[int, int],
    epithelial: Float[np.ndarray, "M 2"],
    other: Float[np.ndarray, "M2 2"],
    radius: float = RADIUS,
    near: Bool[np.ndarray, "h w"] | None = None,
) -> dict[str, float]:
    """How well an attention map agrees with where the epithelial nuclei are.

    Locations of the map are cells that tile the image; a location is *near* if its centre is at most ``radius`` pixels from an
    epithelial nucleus.

    Args:
        attention: adds up to one.
        image_size: height and width in pixels.
        epithelial, other: positions (x, y) of the nuclei of that kind, and of all other kinds.
        near: which locations are near, where :func:`near_locations` has already found them.

    Returns:
        ``mass``, the attention on near locations; ``area``, their share of all locations, which is the mass of uniform attention;
        ``auc``, the probability that a random near location has more attention than a random other one; ``auc_nuclei``, the same
        for the location under a random epithelial nucleus against that under a random other nucleus (NaN without one): whether
        attention tells kinds of nuclei apart, not only cells from background; ``entropy`` in nats.

    Raises:
        ValueError: no epithelial nucleus.
    """
    if not len(epithelial):
        raise ValueError("no epithelial nucleus in this image: there is nothing to agree with")
    attention = attention.double().numpy()
    cells = [size / count for size, count in zip(image_size, attention.shape, strict=True)]
    if near is None:
        near = near_locations(attention.shape, image_size, epithelial, radius)

    def under(points: np.ndarray) -> np.ndarray:
        places = [
            np.clip((points[:, axis] / cell).astype(int), 0, count - 1)
            for axis, cell, count in ((1, cells[0], attention.shape[0]), (0, cells[1], attention.shape[1]))
        ]
        return attention[places[0], places[1]]

    positive = attention[attention > 0]
    return dict(
        mass=float(attention[near].sum()),
        area=float(near.mean()),
        auc=_auc(attention[near], attention[~near]),
        auc_nuclei=_auc(under(epithelial), under(other)),
        entropy=float(-(positive * np.log(positive)).sum()),
    )


def near_locations(
    map_size: tuple[int, int], image_size: tuple[int, int], points: Float[np.ndarray, "M 2"], radius: float = RADIUS
) -> Bool[np.ndarray, "h w"]:
    """Which locations of a map over the whole image have their centre at most ``radius`` pixels from a point (x, y)."""
    rows, columns = ((np.arange(count) + 0.5) * size / count for size, count in zip(image_size, map_size, strict=True))
    squared = (columns[None, :, None] - points[:, 0]) ** 2 + (rows[:, None, None] - points[:, 1]) ** 2  # (h, w, M)
    return squared.min(-1) <= radius**2


def _auc(high: np.ndarray, low: np.ndarray) -> float:
    """Probability that a random number of ``high`` is above a random one of ``low``, ties count half (Mann & Whitney 1947)."""
    if not len(high) or not len(low):
        return math.nan
    low = np.sort(low)
    below, up_to = np.searchsorted(low, high, "left"), np.searchsorted(low, high, "right")
    return float((below + up_to).mean() / 2 / len(low))


@torch.no_grad()
def measure(run: Run, tests: ColonCancer, n_maps: int = 0) -> tuple[dict, dict[str, Tensor]]:
    """Agreement on the positive test images, mean over them, at the end of training and at each snapshot.

    Args:
        run: ``ats`` with weights or snapshots of its attention, or ``deep_mil`` with weights.
        tests: its test images.
        n_maps: of so many images, the attention too.

    Returns:
        the numbers, ``final`` one dict an image and ``epochs`` means by epoch; and log-attention maps by image id.

    Raises:
        FileNotFoundError: neither weights nor snapshots.
    """
    model = run.build()
    snapshots = attention_snapshots(run.snapshots) if run.snapshots.exists() else {}
    if run.weights.exists():
        model.load_state_dict(load_file(run.weights))
    elif run.method == "ats" and snapshots:
        model.attention.load_state_dict(snapshots[max(snapshots)])  # all that is asked here; the last is that of the end
    else:
        raise FileNotFoundError(f"{run.weights}: no weights of this run; make them with `python -m atslib.experiments`")
    model.eval()
    positives = [number for number in range(len(tests)) if int(tests.labels[number]) == 1]
    nuclei = {}
    for number in positives:
        kinds = tests.nuclei(number)
        nuclei[number] = kinds.pop("epithelial"), np.concatenate(list(kinds.values()))

    def look(number: int) -> Float[Tensor, "h w"]:
        image = tests[number][0][None]
        if run.method == "deep_mil":
            return model(image).log_attention[0]
        return model.attend(image)[1][0]

    maps = {number: look(number) for number in positives}
    size = {number: tuple(tests[number][0].shape[1:]) for number in positives}
    near = {number: near_locations(maps[number].shape, size[number], nuclei[number][0]) for number in positives}

    def measured(number: int, log_attention: Tensor) -> dict:
        return agreement(log_attention.exp(), size[number], *nuclei[number], near=near[number])

    final = [dict(id=tests.ids[number]) | measured(number, maps[number]) for number in positives]
    epochs = {}
    for epoch, state in snapshots.items():
        model.attention.load_state_dict(state)
        rows = [measured(number, look(number)) for number in positives]
        epochs[epoch] = {key: float(np.nanmean([row[key] for row in rows])) for key in rows[0]}
    about = dict(run=run.name, weights=_weights_digest(run), radius=RADIUS)
    return about | dict(final=final, epochs=epochs), {
        str(tests.ids[number]): maps[number].half() for number in positives[:n_maps]
    }


def _weights_digest(run: Run) -> str:
    """Of what a model is measured with."""
    return files_digest([path for path in (run.weights, run.snapshots) if path.exists()])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m atslib.experiments.nuclei", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="of the runs, as in runs/NAME.json (default: all)")
    parser.add_argument("--data", metavar="DIR", help="data root (default: $ATSLIB_DATA)")
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="DIR", help="folder of runs/ and weights/")
    parser.add_argument("--maps", type=int, default=4, help="of so many images the attention is kept, for runs of seed 0")
    args = parser.parse_args(arguments)
    try:
        ColonCancer(args.data)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    folder = args.out / "nuclei"
    paths = [args.out / "runs" / f"{name}.json" for name in args.names]
    for path in paths or sorted((args.out / "runs").glob("colon_cancer-*.json")):
        try:
            record = read_record(path)
        except (ValueError, FileNotFoundError) as error:
            print(f"{error}; skipped", file=sys.stderr)
            continue
        if record["method"] not in ("ats", "deep_mil") or "generated" in path.stem:
            if args.names:
                print(f"{path}: no run of ats or deep_mil on the real images; skipped", file=sys.stderr)
            continue
        run = run_of(record, args.out, args.data)
        if run.name != path.stem:
            print(f"{path}: named otherwise than {run.name}, the run it tells of; skipped", file=sys.stderr)
            continue
        if (folder / path.name).exists():
            try:
                measured_with = kept(folder / path.name, "final", {}).get("weights")
            except ValueError as error:
                print(f"{error}; skipped", file=sys.stderr)
                continue
            if measured_with is not None and measured_with != _weights_digest(run):
                print(f"{folder / path.name}: of other weights than those there now; delete it to measure them", file=sys.stderr)
            continue
        try:
            numbers, maps = measure(run, run.loaded.test, args.maps if record["seed"] == 0 else 0)
        except FileNotFoundError as error:
            print(f"{error}; skipped", file=sys.stderr)
            continue
        if maps:
            write_whole(folder / f"{run.name}.safetensors", save(maps))
        write_record(folder / path.name, numbers)  # last: a run that has it is skipped
        means = {key: np.nanmean([row[key] for row in numbers["final"]]) for key in ("mass", "area", "auc", "auc_nuclei")}
        print(run.name, "  ".join(f"{key} {value:.3f}" for key, value in means.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
