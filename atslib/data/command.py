"""What getting a data set takes, whichever it is: a command line, and putting a set in place only when it is whole."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from atslib.data.catalogue import Source
from atslib.data.download import beside, unpack_zip
from atslib.data.files import DataError, data_root


def run(
    source: Source,
    prepare: Callable[[Path, Path, argparse.Namespace], None],
    arguments: list[str] | None = None,
    *,
    mirrors: tuple[str, ...] = (),
    local: str | None = None,
    local_only: bool = False,
) -> int:
    """Get a data set unless it is there, check it, put it in place.

    Args:
        source: which set.
        prepare: called with a new folder to fill, a folder for downloads and the command line.
        arguments: of the command line.
        mirrors: base addresses; where there are some, ``--mirror`` replaces them.
        local: what ``--from`` takes, in words; None for no such option.
        local_only: whether ``--from`` is needed.

    Returns:
        0 when the set is there, 1 when it could not be got (one line on stderr says why), 130 when interrupted.
    """
    parser = argparse.ArgumentParser(
        prog=source.get.partition(" --")[0],
        description=source.describe(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="data root (default: $ATSLIB_DATA, else the user's data)")
    if mirrors:
        parser.add_argument(
            "--mirror", action="append", dest="mirrors", metavar="URL", help=f"instead of {', '.join(mirrors)}; may be repeated"
        )
    if local:
        parser.add_argument("--from", dest="local", type=Path, metavar="PATH", required=local_only, help=local)
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args(arguments)
    if mirrors:
        args.mirrors = [url if url.endswith("/") else url + "/" for url in args.mirrors or mirrors]
    try:
        target = source.path(args.data)
        if source.state(args.data, thorough=True) == "complete":
            print(f"{target}: already there and complete")
            return 0
        downloads = data_root(args.data) / "downloads" / source.folder.split("/")[0]
        with beside(target) as part:
            prepare(part, downloads, args)
            found = source.problems(part)
            if found:
                more = f" (and {len(found) - 1} more like this)" if len(found) > 1 else ""
                raise DataError(found[0].replace(str(part), str(target)) + more + "; nothing was put in place")
        shutil.rmtree(downloads, ignore_errors=True)
        if downloads.parent.is_dir() and not any(downloads.parent.iterdir()):
            downloads.parent.rmdir()
    except (DataError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename or target}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; what has been downloaded is kept, run the same command again to go on", file=sys.stderr)
        return 130
    print(f"{target}: complete")
    return 0


def take(
    given: Path,
    target: Path,
    place: Callable[[PurePosixPath], PurePosixPath | str | None],
    *,
    expected: str,
    max_bytes: int,
    progress: bool = True,
) -> None:
    """Fill ``target`` from a zip file or a folder that the user already has.

    Args:
        given: the zip file or the folder.
        place: from a path inside it to the path below ``target``, None for what is not wanted.
        expected: what should be in there, for the message.
        max_bytes: of all wanted files.

    Raises:
        DataError: nothing there, or nothing in it that belongs to the set.
    """
    given = given.expanduser()
    if not given.exists():
        raise DataError(f"{given}: not there; expected {expected}")
    if given.is_file():
        count = unpack_zip(given, target, max_bytes=max_bytes, place=place, progress=progress)
    else:
        count = 0
        for path in sorted(given.rglob("*")):
            # The folder's own name counts too, so that the set's folder may be given or the one it lies in.
            to = place(PurePosixPath(given.resolve().name, path.relative_to(given).as_posix())) if path.is_file() else None
            if to is not None:
                (target / to).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target / to)
                count += 1
    if not count:
        raise DataError(f"{given}: nothing of this data set in it; expected {expected}")
