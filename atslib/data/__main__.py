"""Which data sets are here, and how to get the others: ``python -m atslib.data``, and ``python -m atslib.data get NAME``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from atslib.data.catalogue import SETS
from atslib.data.files import data_root
from atslib.data.getting import GETTERS

PROG = "python -m atslib.data"


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    return _get(arguments[1:]) if arguments[:1] == ["get"] else _list(arguments)


def _get(arguments: list[str]) -> int:
    """Each set has options of its own."""
    parser = argparse.ArgumentParser(prog=f"{PROG} get", description="Get a data set, check it, and put it in place.")
    parser.add_argument("name", choices=GETTERS, metavar="NAME", help=", ".join(GETTERS))
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="…", help=f"{PROG} get NAME --help lists those of a set")
    args = parser.parse_args(arguments)
    return GETTERS[args.name](args.options)


def _list(arguments: list[str]) -> int:
    usage = "%(prog)s [-h] [--data DIR] [--verify]\n       %(prog)s get NAME …"
    parser = argparse.ArgumentParser(prog=PROG, usage=usage, description=__doc__)
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
