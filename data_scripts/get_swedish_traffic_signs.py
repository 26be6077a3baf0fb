"""Get the annotated part of the Swedish Traffic Signs, from which the paper makes its speed limits.

    python data_scripts/get_swedish_traffic_signs.py [--data DIR] [--from FOLDER]

Several GB. An interrupted download goes on where it stopped when the same command is run again.
"""

import argparse
import sys
from pathlib import Path, PurePosixPath

from atslib.data.catalogue import SETS
from atslib.data.command import run, take
from atslib.data.download import download, unpack_zip
from atslib.data.speed_limits import SWEDISH_MD5

MIRRORS = (
    "https://www.cvl.isy.liu.se/research/datasets/traffic-signs-dataset/",
    "http://www.isy.liu.se/cvl/research/trafficSigns/swedishSignsSummer/",
)
MAX_BYTES = 8_000_000_000  # of one part


def image(name: PurePosixPath) -> str | None:
    return name.name if name.suffix.lower() == ".jpg" and not name.name.startswith(".") else None


def from_folder(name: PurePosixPath) -> PurePosixPath | None:
    """SetN/annotations.txt, and images in SetN/ or in a folder inside it."""
    for part in SWEDISH_MD5:
        if part in name.parts:
            inner = name.parts[name.parts.index(part) + 1 :]
            if inner == ("annotations.txt",) or (len(inner) <= 2 and image(name)):
                return PurePosixPath(part, name.name)
    return None


def prepare(folder: Path, downloads: Path, args: argparse.Namespace) -> None:
    if args.local:
        expected = "a folder with Set1/ and Set2/, each with annotations.txt and its images"
        take(args.local, folder, from_folder, expected=expected, max_bytes=2 * MAX_BYTES, progress=not args.quiet)
        return
    for part, md5 in SWEDISH_MD5.items():
        (folder / part).mkdir()
        annotations = download(
            [f"{mirror}{part}/annotations.txt" for mirror in args.mirrors],
            downloads / part / "annotations.txt",
            md5=md5,
            progress=not args.quiet,
        )
        (folder / part / "annotations.txt").write_bytes(annotations.read_bytes())
        archive = download(
            [f"{mirror}{part}/{part}Part0.zip" for mirror in args.mirrors],
            downloads / f"{part}Part0.zip",
            progress=not args.quiet,
        )
        unpack_zip(archive, folder / part, max_bytes=MAX_BYTES, place=image, progress=not args.quiet)


def main(arguments: list[str] | None = None) -> int:
    local = "a folder that holds Set1/ and Set2/ already, instead of downloading"
    return run(SETS["swedish_traffic_signs"], prepare, arguments, mirrors=MIRRORS, local=local)


if __name__ == "__main__":
    sys.exit(main())
