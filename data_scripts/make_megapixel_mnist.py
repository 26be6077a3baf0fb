"""Write Megapixel MNIST to files, for other programs: atslib itself draws the images when it needs them.

    python data_scripts/make_megapixel_mnist.py OUT [--variant released] [--digits full]

OUT then holds train/00000.png …, test/…, labels.csv with one line an image, and parameters.json. With the released
code's variant, train-low/ and test-low/ hold its small views.
"""

import argparse
import csv
import json
import sys
from pathlib import Path

from tqdm.auto import tqdm

from atslib.data import DataError, MegapixelMNIST
from atslib.data.download import beside
from atslib.data.files import needed

ABOUT = """Megapixel MNIST (Katharopoulos & Fleuret, 2019): images of 1500 × 1500 pixels with five digits among noise.

  size      about 130 MB for the paper's 5,000 + 1,000 images
  terms     CC BY-SA 3.0, as MNIST, from which the digits are (Y. LeCun and C. Cortes)
  cite      Katharopoulos, Fleuret: Processing megapixel images with deep attention-sampling models, ICML 2019; and
            LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition, Proc. IEEE, 1998"""


def make(out: Path, args: argparse.Namespace) -> None:
    Image = needed("PIL.Image")
    parameters = {name: value for name, value in vars(args).items() if name not in ("out", "quiet")}
    with beside(out) as part:
        (part / "parameters.json").write_text(json.dumps(parameters, indent=1) + "\n")
        with (part / "labels.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["split", "number", "label"])
            for split, count in (("train", args.n_train), ("test", args.n_test)):
                dataset = MegapixelMNIST(
                    split,
                    count,
                    args.size,
                    n_noise=args.n_noise,
                    seed=args.seed,
                    digits="full" if args.digits == "full" else None,
                    variant=args.variant,
                )
                (part / split).mkdir()
                if args.variant == "released":
                    (part / f"{split}-low").mkdir()
                for number in tqdm(range(count), desc=split, unit="image", disable=args.quiet):
                    image, label = dataset[number]
                    Image.fromarray(image[0].numpy()).save(part / split / f"{number:05d}.png", compress_level=1)
                    if args.variant == "released":
                        low = (255 * dataset.low(number)[0]).round().byte().numpy()
                        Image.fromarray(low).save(part / f"{split}-low" / f"{number:05d}.png")
                    table.writerow([split, number, label])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a folder that is not there yet")
    parser.add_argument("--n-train", type=int, default=5000)
    parser.add_argument("--n-test", type=int, default=1000)
    parser.add_argument("--size", type=int, default=1500, help="height and width in pixels")
    parser.add_argument("--n-noise", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variant", choices=["paper", "released"], default="paper")
    full = "full: all of MNIST (python -m atslib.data get mnist)"
    parser.add_argument("--digits", choices=["shipped", "full"], default="shipped", help=full)
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args(arguments)
    if args.out.exists():
        parameters = args.out / "parameters.json"
        wanted = {name: value for name, value in vars(args).items() if name not in ("out", "quiet")}
        if parameters.is_file() and json.loads(parameters.read_text()) == wanted:
            print(f"{args.out}: already there and complete")
            return 0
        print(f"error: {args.out}: there already, with other contents; name a new folder or delete it", file=sys.stderr)
        return 1
    try:
        make(args.out, args)
    except (DataError, ImportError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; nothing was written", file=sys.stderr)
        return 130
    print(f"{args.out}: {args.n_train} + {args.n_test} images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
