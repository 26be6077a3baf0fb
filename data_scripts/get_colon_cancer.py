"""Put the colon cancer images in place, from the archive or the folder that you have.

    python data_scripts/get_colon_cancer.py --from CRCHistoPhenotypes_2016_04_28.zip [--data DIR]

Its authors give the archive to those who fill in a form, for research purposes only, so no script can fetch it:
https://warwick.ac.uk/fac/cross_fac/tia/data/crchistolabelednucleihe
"""

import argparse
import sys
from pathlib import Path, PurePosixPath

from atslib.data.catalogue import SETS
from atslib.data.command import run, take


def place(name: PurePosixPath) -> PurePosixPath | None:
    """Classification/… with images and annotations, Detection/… with annotations only (its images are copies)."""
    for top, endings in (("Classification", (".bmp", ".mat")), ("Detection", (".mat",))):
        if top in name.parts:
            inner = PurePosixPath(*name.parts[name.parts.index(top) :])
            own = len(inner.parts) == 3 and not inner.name.startswith(".") and "__MACOSX" not in name.parts
            return inner if own and inner.suffix in endings else None
    return None


def prepare(folder: Path, downloads: Path, args: argparse.Namespace) -> None:
    expected = "the archive CRCHistoPhenotypes_2016_04_28 or the folder it unpacks to, with Classification/img1/img1.bmp"
    take(args.local, folder, place, expected=expected, max_bytes=200_000_000, progress=not args.quiet)


def main(arguments: list[str] | None = None) -> int:
    local = "the archive that you got from its home, or the folder that it unpacks to"
    return run(SETS["colon_cancer"], prepare, arguments, local=local, local_only=True)


if __name__ == "__main__":
    sys.exit(main())
