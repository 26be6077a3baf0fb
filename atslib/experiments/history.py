"""How attention changes in the course of training, for figures 6 and 7 of the paper (§E, §F).

``python -m atslib.experiments.history --data DIR`` takes the snapshots of all runs of attention sampling on the colon cancer
images in ``results/`` that draw systematically along a Hilbert curve, and looks with them at the test images of one fold. It
writes to ``results/ablations/``: attention maps of two images at some epochs, ``NAME.safetensors``, and how far the
distributions of any two runs are from each other, ``distances-foldF.json``. No image is in either.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn.functional import pad

from atslib.data import ColonCancer, DataError
from atslib.estimators import entropy
from atslib.experiments.records import read_record, write_whole
from atslib.experiments.runs import Run, attention_snapshots, run_of
from atslib.models import _log_softmax

EPOCHS = (*range(0, 101, 10), *range(125, 301, 25))  # at which distances are measured
MAP_EPOCHS = (0, 20, 40, 60, 100, 300)  # of which maps are kept
BLOCK = 2  # locations along each side that one value of a kept map adds up


def total_variation(log_p: Float[Tensor, "*B K"], log_q: Float[Tensor, "*B K"]) -> Float[Tensor, "*B"]:
    r"""The attention that would have to be moved to make one distribution of the other, 0 … 1.

    .. math::  \mathrm{TV}(p, q) = \tfrac12 \sum_i |p_i - q_i|

    >>> total_variation(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.75, 0.25]).log()).item()
    0.25
    """
    return (log_p.exp() - log_q.exp()).abs().sum(-1) / 2


def jensen_shannon(log_p: Float[Tensor, "*B K"], log_q: Float[Tensor, "*B K"]) -> Float[Tensor, "*B"]:
    r"""Jensen–Shannon divergence in bits, 0 … 1: what one draw tells about which of the two it came from (Lin 1991).

    .. math::  \mathrm{JS}(p, q) = \mathcal H\bigl(\tfrac12 (p + q)\bigr) - \tfrac12 \mathcal H(p) - \tfrac12 \mathcal H(q)
    """
    log_p, log_q = torch.broadcast_tensors(log_p, log_q)
    mixture = torch.logaddexp(log_p, log_q) - torch.tensor(2.0).log()
    each = [entropy(log.reshape(-1, log.shape[-1])) for log in (mixture, log_p, log_q)]
    nats = (each[0] - (each[1] + each[2]) / 2).reshape(log_p.shape[:-1])
    return nats.clamp(min=0) / torch.tensor(2.0).log()


def coarse(log_attention: Float[Tensor, "*B h w"], block: int = BLOCK) -> Float[Tensor, "*B h2 w2"]:
    """The log-attention of squares of ``block`` × ``block`` locations; at the border of what is left of them."""
    h, w = log_attention.shape[-2:]
    whole = pad(log_attention, (0, -w % block, 0, -h % block), value=-torch.inf)
    return whole.unfold(-2, block, block).unfold(-2, block, block).flatten(-2).logsumexp(-1)


@torch.no_grad()
def history(run: Run, views: Float[Tensor, "B C h w"], epochs: Iterable[int]) -> dict[int, Float[Tensor, "B h2 w2"]]:
    """Log-attention of a run on these views, at those of the epochs of which there is a snapshot."""
    network = run.build().attention.eval()
    snapshots = attention_snapshots(run.snapshots)
    maps = {}
    for epoch in sorted(set(epochs) & set(snapshots)):
        network.load_state_dict(snapshots[epoch])
        maps[epoch] = _log_softmax(network(views))
    return maps


def compare(maps: dict[str, dict[int, Float[Tensor, "B h w"]]]) -> dict:
    """Distances between any two runs, mean over the images, at the epochs that all runs have; and each run by itself.

    Args:
        maps: of each run by name, from :func:`history`.

    Returns:
        ``epochs``; ``runs``, by name the ``entropy`` in nats and the distance from ``uniform`` (total variation) by epoch;
        ``pairs``, a list of dicts with the names ``a`` and ``b``, and ``tv`` and ``js`` by epoch.
    """
    epochs = sorted(set.intersection(*(set(history) for history in maps.values()))) if maps else []
    flat = {name: {epoch: history[epoch].flatten(1) for epoch in epochs} for name, history in maps.items()}
    mean = lambda values: [round(value.mean().item(), 5) for value in values]
    uniform = lambda p: torch.full_like(p, 1 / p.shape[1]).log()
    names = list(flat)
    return dict(
        epochs=epochs,
        runs={
            name: dict(
                entropy=mean(entropy(flat[name][epoch]) for epoch in epochs),
                uniform=mean(total_variation(flat[name][epoch], uniform(flat[name][epoch])) for epoch in epochs),
            )
            for name in names
        },
        pairs=[
            dict(a=a, b=b)
            | {
                key: mean(distance(flat[a][epoch], flat[b][epoch]) for epoch in epochs)
                for key, distance in (("tv", total_variation), ("js", jensen_shannon))
            }
            for number, a in enumerate(names)
            for b in names[number + 1 :]
        ],
    )


def exchange_test(a: Sequence[str], b: Sequence[str], distance: Callable[[str, str], float]) -> tuple[float, float, float]:
    """Are runs of two kinds farther from each other than runs of the same kind?

    Run i of both kinds has the same seed, and with it initial weights and data. If the kind did not matter, the two could as
    well change their names: all :math:`2^n` ways to do so are counted. Pairs of one seed, which are near each other for another
    reason, are left out.

    Args:
        a, b: the runs of either kind, seed by seed.
        distance: of two runs.

    Returns:
        mean distance of pairs of unlike kinds; that of pairs of one kind; the share of exchanges whose difference of the two is
        at least as large (one-sided; it cannot be below :math:`2/2^n`, as exchanging all changes nothing).

    Raises:
        ValueError: kinds of unequal size, or fewer than two seeds; distances that are not finite.

    >>> place = dict(a0=0.0, a1=0.1, b0=5.0, b1=5.1)
    >>> exchange_test(["a0", "a1"], ["b0", "b1"], lambda x, y: abs(place[x] - place[y]))[2]
    0.5
    """
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"{len(a)} and {len(b)} runs: expected as many of both, at least two")

    def apart(swapped: Sequence[bool]) -> tuple[float, float]:
        kinds = [[y if swap else x for x, y, swap in zip(one, other, swapped, strict=True)] for one, other in ((a, b), (b, a))]
        seeds = list(itertools.combinations(range(len(a)), 2))
        unlike = [distance(kinds[k][i], kinds[1 - k][j]) for i, j in seeds for k in (0, 1)]
        like = [distance(kind[i], kind[j]) for i, j in seeds for kind in kinds]
        return sum(unlike) / len(unlike), sum(like) / len(like)

    unlike, like = apart([False] * len(a))
    if not math.isfinite(unlike - like):  # no comparison with NaN holds, so that p would be the least of all
        raise ValueError(f"mean distances {unlike} and {like}: expected finite ones")
    exchanged = [apart(swapped) for swapped in itertools.product((False, True), repeat=len(a))]
    at_least = sum(u - v >= unlike - like - 1e-12 for u, v in exchanged)
    return unlike, like, at_least / len(exchanged)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m atslib.experiments.history", description=__doc__.splitlines()[0])
    parser.add_argument("--data", metavar="DIR", help="data root (default: $ATSLIB_DATA)")
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="DIR", help="folder of runs/ and weights/")
    parser.add_argument("--fold", type=int, default=0, help="whose test images are looked at (default: 0)")
    parser.add_argument("--profile", default="laptop", help="of the runs (default: laptop)")
    parser.add_argument("--images", type=int, default=2, help="of so many positive ones maps are kept, for runs of this fold")
    args = parser.parse_args(arguments)
    try:
        tests = ColonCancer(args.data, "test", fold=args.fold)
    except (DataError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    runs = {}
    for path in sorted((args.out / "runs").glob("colon_cancer-ats-*.json")):
        try:
            record = read_record(path)
        except ValueError as error:
            print(f"{error}; skipped", file=sys.stderr)
            continue
        run = run_of(record, args.out, args.data)
        drawn = (run.estimator, run.order) == ("systematic", "hilbert")  # those of another estimator are not of this ablation
        alike = drawn and run.profile == args.profile and {field for field, _ in run.changes} <= {"entropy_weight"}
        if alike and run.name == path.stem and run.snapshots.exists():  # drawn images have another name
            runs[run] = record
    if not runs:
        wanted = f"run of profile {args.profile!r} with systematic draws and snapshots of its attention"
        print(f"{args.out}: no {wanted}", file=sys.stderr)
        return 2
    view = next(iter(runs)).build().view  # the same for all
    views = torch.cat([view(tests[number][0][None]) for number in range(len(tests))])
    shown = [number for number in range(len(tests)) if int(tests.labels[number]) == 1][: args.images]

    folder = args.out / "ablations"
    maps = {}
    for run in runs:
        maps[run.name] = history(run, views, {*EPOCHS, *MAP_EPOCHS})
        if run.seed % 5 != args.fold:
            continue
        kept = {
            f"{epoch}/{tests.ids[number]}": coarse(maps[run.name][epoch][number]).half()
            for epoch in MAP_EPOCHS
            if epoch in maps[run.name]
            for number in shown
        }
        write_whole(folder / f"{run.name}.safetensors", save(kept))
        print(f"{folder / run.name}.safetensors: {len(kept)} maps")
    numbers = compare(maps)
    for run, record in runs.items():
        weight = record["settings"]["training"]["entropy_weight"]
        numbers["runs"][run.name] |= dict(seed=run.seed, fold=run.seed % 5, n_patches=run.n_patches, entropy_weight=weight)
    path = folder / f"distances-fold{args.fold}.json"
    numbers = dict(fold=args.fold, images=list(tests.ids)) | numbers
    write_whole(path, (json.dumps(numbers) + "\n").encode())
    print(f"{path}: {len(runs)} runs, {len(numbers['pairs'])} pairs, {len(tests)} images, {len(numbers['epochs'])} epochs")
    return 0


def load_maps(path: Path) -> dict[int, dict[int, Float[Tensor, "h w"]]]:
    """The maps of ``ablations/NAME.safetensors``: epoch → image → log-attention."""
    maps: dict[int, dict[int, Tensor]] = {}
    for key, tensor in load_file(path).items():
        epoch, image = map(int, key.split("/"))
        maps.setdefault(epoch, {})[image] = tensor.float()
    return dict(sorted(maps.items()))


if __name__ == "__main__":
    sys.exit(main())
