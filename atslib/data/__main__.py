"""Which data sets are here, and how to get the others: ``python -m atslib.data``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from atslib.data.catalogue import SETS
from atslib.data.files import data_root


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m atslib.data", description=__doc__)
    parser.add_argument("--data", type=Path, metavar="DIR", help="data root (default: $ATSLIB_DATA, else the user's data)")
    parser.add_argument("--verify", action="store_true", help="read every file, not only look whether it is there")
    args = parser.parse_args(arguments)
    try:
        print(f"data root: {data_root(args.data)}\n")
        for name, source in SETS.items():
            state = source.state(args.data, thorough=args.verify)
            print(f"{name}\n  what   {source.title}\n  for    {source.used_for}")
            print(f"  where  {source.path(args.data)}\n  state  {state}")
            if state != "complete":
                print(f"  get    {source.get}   ({source.size})")
            print(f"  terms  {source.terms}\n")
    except ImportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("Nothing has to be got to run the book: Megapixel MNIST comes with its digits, and atslib.data draws stand-ins")
    print("for the others (GeneratedHistology, GeneratedRoads).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
