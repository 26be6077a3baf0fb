"""Run one of the paper's experiments: ``python -m atslib.experiments megapixel_mnist --profile smoke``."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch.utils.data import Subset

from atslib.estimators import ESTIMATORS
from atslib.experiments import megapixel_mnist
from atslib.experiments.records import hardware, software, write_record
from atslib.training import evaluate, train

EXPERIMENTS = {module.NAME: module for module in (megapixel_mnist,)}


def main(arguments: list[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    experiment = EXPERIMENTS[args.name]
    profile = experiment.PROFILES[args.profile]
    settings = replace(profile.training, seed=args.seed)
    name = f"{args.name}-{args.method}-{args.estimator}-n{args.n_patches}-seed{args.seed}-{args.profile}"
    checkpoint = args.out / "checkpoints" / f"{name}.pt"
    if checkpoint.exists() and not args.resume:
        print(f"{checkpoint} is there: go on with --resume, or delete it to start anew", file=sys.stderr)
        return 2

    device = torch.device(args.device)
    torch.manual_seed(args.seed)
    model = experiment.build_model(args.n_patches, args.estimator, args.profile)
    train_set, test_set = experiment.build_data(args.profile)

    def report(entry: dict) -> None:
        print("  ".join(f"{k} {v:.4g}" for k, v in entry.items()), flush=True)

    curve = train(
        model,
        train_set,
        Subset(test_set, range(min(profile.n_watch, len(test_set)))),
        settings,
        checkpoint=checkpoint,
        max_seconds=args.max_seconds,
        device=device,
        progress=sys.stderr.isatty(),
        on_epoch=report,
    )
    if len(curve) < settings.epochs:
        print(f"stopped after {len(curve)} of {settings.epochs} epochs; go on with --resume")
        return 3

    # In float32: what a user of the weights will see.
    tests = {
        n: evaluate(model, test_set, settings.batch_size, device=device, progress=sys.stderr.isatty(), n_patches=n)
        for n in sorted({5, 10, 25, 50, args.n_patches})
    }
    final = tests[args.n_patches]
    record = dict(
        experiment=args.name,
        method=args.method,
        estimator=args.estimator,
        n_patches=args.n_patches,
        seed=args.seed,
        profile=args.profile,
        dataset=experiment.describe_data(args.profile),
        hardware=hardware(device),
        software=software(),
        settings=asdict(profile) | dict(training=asdict(settings)),
        curve={key: [entry.get(key) for entry in curve] for key in curve[-1]},
        final=dict(
            train_loss=curve[-1]["train_loss"],
            test_error=final["error"],
            test_stderr=final["stderr"],
            test_loss=final["loss"],
            by_n_patches={str(n): dict(test_error=t["error"], test_loss=t["loss"]) for n, t in tests.items()},
        ),
        cost=dict(train_ms_per_image=1000 * curve[-1]["seconds"] / len(curve) / len(train_set)),
    )
    print(write_record(args.out / "runs" / f"{name}.json", record))
    weights = args.out / "weights" / f"{name}.safetensors"
    weights.parent.mkdir(parents=True, exist_ok=True)
    weights.write_bytes(save({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}))
    print(f"{weights}\ntest error {final['error']:.3f} ± {final['stderr']:.3f} on {final['n']} images, {args.n_patches} patches")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m atslib.experiments", description=__doc__)
    parser.add_argument("name", choices=EXPERIMENTS)
    parser.add_argument("--method", choices=["ats"], default="ats", help="attention sampling (default)")
    parser.add_argument("--n-patches", type=int, default=10, metavar="N", help="patches per image (default: 10)")
    parser.add_argument("--estimator", choices=ESTIMATORS, default="systematic", help="default: systematic")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", choices=["smoke", "laptop", "paper"], default="smoke", help="sizes (default: smoke)")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for runs/, weights/, checkpoints/")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--max-seconds", type=float, default=math.inf, metavar="T", help="stop after the epoch that passes T")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    return parser


if __name__ == "__main__":
    sys.exit(main())
