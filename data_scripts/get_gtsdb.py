"""Get the German Traffic Sign Detection Benchmark: 900 road images with 1,213 signs.

    python data_scripts/get_gtsdb.py [--data DIR] [--from ZIP_OR_FOLDER]

1.7 GB. An interrupted download goes on where it stopped when the same command is run again.
"""

import argparse
import sys
from pathlib import Path, PurePosixPath

from atslib.data.catalogue import SETS
from atslib.data.command import run, take
from atslib.data.download import download

MIRRORS = ("https://sid.erda.dk/public/archives/ff17dc924eba88d5d01a807357d6614c/",)
ARCHIVE = "FullIJCNN2013.zip"


def place(name: PurePosixPath) -> str | None:
    """The whole images and the text files; not the crops of single signs in the folders 00 … 42."""
    if name.parts[-2:-1] != ("FullIJCNN2013",):
        return None
    image = name.suffix.lower() in (".ppm", ".jpg", ".png") and len(name.stem) == 5 and name.stem.isdigit()
    return name.name if image or name.name in ("gt.txt", "ReadMe.txt") else None


def prepare(folder: Path, downloads: Path, args: argparse.Namespace) -> None:
    given = args.local
    if given is None:
        given = download([mirror + ARCHIVE for mirror in args.mirrors], downloads / ARCHIVE, progress=not args.quiet)
    expected = f"{ARCHIVE} or the folder FullIJCNN2013, with gt.txt and 900 images"
    take(given, folder, place, expected=expected, max_bytes=3_500_000_000, progress=not args.quiet)


def main(arguments: list[str] | None = None) -> int:
    local = "the archive FullIJCNN2013.zip or the folder that it unpacks to, instead of downloading"
    return run(SETS["gtsdb"], prepare, arguments, mirrors=MIRRORS, local=local)


if __name__ == "__main__":
    sys.exit(main())
