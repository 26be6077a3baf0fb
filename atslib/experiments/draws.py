"""Trained networks with the draws of others: ``python -m atslib.experiments.draws NAME … --draws systematic,des_raj``.

An estimator says how locations are drawn in training and in the test. Which of the two is it that makes a difference? Networks do
not know how their patches were drawn, so each can be tested with the draws of every estimator: same weights, same attention,
same images, and only the places differ that are looked at. For Megapixel MNIST, method ``ats``. Written to
``OUT/draws/NAME.json``; draws that are there already are kept, and if they are of other weights or of another number of looks,
nothing is measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from atslib.data.files import files_digest
from atslib.estimators import get_estimator
from atslib.experiments.records import hardware, kept, note_parts, software, write_record
from atslib.experiments.runs import recorded
from atslib.experiments.sizes import trained
from atslib.memory import keep_freed_memory
from atslib.models import AttentionSampling, evaluating

DRAWS = ("systematic", "with_replacement", "des_raj", "murthy")


@torch.no_grad()
def measure(
    model: AttentionSampling, tests: Dataset, draws: Sequence[str], looks: int, batch_size: int = 50
) -> dict[str, list[float]]:
    """Errors with the draws of each estimator, one number a look.

    The attention of an image is computed once. Every estimator, and every look, draws with the same random numbers whatever
    else is measured beside it.

    Args:
        tests: items ``(image, label)``, tensors of one size.
        draws: names in :data:`atslib.estimators.ESTIMATORS`.
        looks: how often each image is answered, by ``model.n_patches`` patches each time.

    Raises:
        ValueError: an unknown estimator.
    """
    estimators = {name: get_estimator(name) for name in draws}
    sources = {name: [torch.Generator().manual_seed(look) for look in range(looks)] for name in draws}
    wrong, n, own = {name: [0] * looks for name in draws}, 0, model.estimator
    with evaluating(model):
        try:
            for images, labels in DataLoader(tests, batch_size):
                low, log_attention = model.attend(images)
                n += len(images)
                for name, estimator in estimators.items():
                    model.estimator = estimator
                    for look, generator in enumerate(sources[name]):
                        logits = model(images, low, log_attention=log_attention, generator=generator).logits
                        wrong[name][look] += int((logits.argmax(1) != labels).sum())
        finally:
            model.estimator = own
    return {name: [count / n for count in counts] for name, counts in wrong.items()}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m atslib.experiments.draws", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", metavar="NAME", help="of a record in OUT/runs, without its suffix")
    parser.add_argument("--draws", default=",".join(DRAWS), help="estimators (default: %(default)s)")
    parser.add_argument("--looks", type=int, default=2, metavar="L", help="at each image with each of them (default: 2)")
    parser.add_argument("--data", metavar="DIR", help="data root, for runs with the whole of MNIST")
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="DIR", help="folder of runs/ and weights/")
    args = parser.parse_args(arguments)
    try:
        draws = args.draws.split(",")
        for name in draws:
            get_estimator(name)
        if args.looks < 1:
            raise ValueError(f"--looks {args.looks}: expected at least 1")
        keep_freed_memory()
        for name in args.names:
            run = recorded(name, args.out, args.data)
            if run.method != "ats":
                raise ValueError(f"{name}: expected a run with method ats")
            model, tests = trained(run), run.loaded.test
            path = args.out / "draws" / f"{name}.json"
            about = dict(run=name, weights=files_digest([run.weights]), n=len(tests), n_patches=run.n_patches, looks=args.looks)
            record = kept(path, "errors", about) or dict(about)  # of any machine: there are no times in it
            done = record.get("errors", {})
            if missing := [estimator for estimator in draws if estimator not in done]:
                here = dict(hardware=hardware(torch.device("cpu")), software=software())
                note_parts(record, here, list(done), missing)
                record["errors"] = done = done | measure(model, tests, missing, args.looks)
                write_record(path, record)
            print(name, "  ".join(f"{estimator} {sum(of) / len(of):.3f}" for estimator, of in done.items()), flush=True)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
