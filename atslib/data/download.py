"""Getting files: from the first mirror that has them, resumed where a connection was cut, checked, never half in place."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import json
import logging
import lzma
import os
import shutil
import stat
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from types import ModuleType

from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from atslib.data.files import DataError, needed

_CHUNK = 1 << 18
_TIMEOUT = 30  # seconds without a byte


def download(
    urls: Sequence[str],
    path: str | os.PathLike,
    *,
    md5: str | None = None,
    check: Callable[[Path], None] | None = None,
    attempts: int = 3,
    pause: float = 1.0,
    progress: bool = True,
) -> Path:
    """Fetch a file from the first mirror that gives it whole.

    What has arrived stays in ``path`` + ``.part`` when a connection is cut or the program is stopped, and the next try goes on
    there. A file that is already at ``path`` with the right digest is left as it is. A second program that wants the same file
    waits for the first.

    Args:
        urls: mirrors, in order.
        path: where the file goes.
        md5: of the file; without one, only its length is checked and a second mirror starts from the beginning.
        check: called with the file, raises a :class:`DataError` where it is not what it should be.
        attempts: connections to each mirror before the next one is tried, with ``pause`` seconds between them.
        progress: whether to show a bar.

    Raises:
        DataError: no mirror gave the file, each with its reason; or the disk is full.
    """
    pooch = needed("pooch")
    pooch.get_logger().setLevel(logging.WARNING)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.exists() and (md5 is None or file_md5(path) == md5)
    if whole and not (check is not None and _complaint(check, path)):
        return path  # also where nothing can be written
    with _locked(path):
        return _fetched(pooch, urls, path, md5, check, attempts, pause, progress)


@contextlib.contextmanager
def _locked(path: Path, timeout: float = -1) -> Iterator[None]:
    """Keep other programs from making the same file or folder meanwhile; waits for them unless ``timeout`` says how long."""
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=timeout)
    try:
        with lock:
            try:
                yield
            finally:
                # Who waits for a lock that is taken away finds a file that is whole. (On Windows an open file stays.)
                if os.name == "posix":
                    Path(lock.lock_file).unlink(missing_ok=True)
    except Timeout:
        raise DataError(f"{path}: another program is making it, which holds {lock.lock_file}") from None


def _fetched(
    pooch: ModuleType,
    urls: Sequence[str],
    path: Path,
    md5: str | None,
    check: Callable[[Path], None] | None,
    attempts: int,
    pause: float,
    progress: bool,
) -> Path:
    """:func:`download`, when nobody else is at it."""
    reasons = []
    if check is not None and path.exists() and _complaint(check, path):
        path.unlink()
    for url in urls:
        fetch = _Resume(path, attempts, pause, progress, any_mirror=md5 is not None)
        try:
            pooch.retrieve(url, known_hash=f"md5:{md5}" if md5 else None, fname=path.name, path=path.parent, downloader=fetch)
            if check is None or not (complaint := _complaint(check, path)):
                return path
            path.unlink()
            reasons.append(f"{url}: {complaint}")
        except ValueError as error:  # pooch says so when the digest differs, and has removed the file
            reasons.append(f"{url}: the file's md5 is {fetch.md5}, expected {md5}" if fetch.md5 else f"{url}: {error}")
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise DataError(
                    f"{path}: the disk is full ({error}); make room and run the same command again, it goes on from the "
                    f"{_size(fetch.part)} that have arrived"
                ) from error
            reasons.append(f"{url}: {getattr(error, 'reason', None) or error}")
    raise DataError(f"{path.name}: no mirror gave it; {'; '.join(reasons)}; run the same command again to go on")


def _complaint(check: Callable[[Path], None], path: Path) -> str:
    try:
        check(path)
    except DataError as error:
        return str(error)
    return ""


class _Resume:
    """A downloader for pooch that goes on from a part of the file. One object fetches one file."""

    def __init__(self, path: Path, attempts: int, pause: float, progress: bool, any_mirror: bool):
        self.part = path.with_name(path.name + ".part")
        self.origin = path.with_name(path.name + ".part.json")  # where the part came from
        self.attempts, self.pause, self.progress, self.any_mirror = attempts, pause, progress, any_mirror
        self.md5 = ""

    def __call__(self, url: str, output_file: str, pooch) -> None:
        if not self._same_origin(url):
            self.part.unlink(missing_ok=True)
        for attempt in range(self.attempts):
            try:
                self._go_on(url)
                break
            except (OSError, http.client.HTTPException) as error:
                refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
                full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
                if refused or full or attempt == self.attempts - 1:
                    raise
                time.sleep(self.pause)
        self.md5 = file_md5(self.part)
        self.origin.unlink(missing_ok=True)
        os.replace(self.part, output_file)

    def _go_on(self, url: str) -> None:
        have = self.part.stat().st_size if self.part.exists() else 0
        headers = {"User-Agent": "atslib", "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if (tag := self._origin().get("tag")) and self._origin().get("url") == url:
                headers["If-Range"] = tag  # another file by now: the server sends it from the beginning
        try:
            response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
        except urllib.error.HTTPError as error:
            if error.code == 416 and have:  # nothing beyond what we have, or a shorter file: the digest will tell, or start anew
                total = (error.headers.get("Content-Range") or "").rpartition("/")[2]
                if total == str(have):
                    return
                self.part.unlink()
                raise OSError(f"{url}: the file is shorter than the part that is here") from error
            raise
        with response:
            if response.status != 206:
                have = 0
            length = response.headers.get("Content-Length")
            total = have + int(length) if length else None
            if total is not None and (free := shutil.disk_usage(self.part.parent).free) < total - have:
                raise OSError(errno.ENOSPC, f"{_mega(total - have)} to come, {_mega(free)} free")
            tag = response.headers.get("ETag") or ""
            if not tag or tag.startswith("W/"):  # a weak one does not tell versions apart byte by byte
                tag = response.headers.get("Last-Modified")
            self.origin.write_text(json.dumps({"url": url, "tag": tag}))
            with (
                self.part.open("ab" if have else "wb") as file,
                tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=self.part.stem, disable=not self.progress) as bar,
            ):
                while chunk := response.read(_CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
                    have += len(chunk)
        if total is not None and have < total:
            raise ConnectionError(f"the connection was cut after {_mega(have)} of {_mega(total)}")

    def _same_origin(self, url: str) -> bool:
        """Whether the part may be gone on with: from this address, or from any where the whole file's digest is known."""
        return self.any_mirror or self._origin().get("url") == url

    def _origin(self) -> dict:
        try:
            return json.loads(self.origin.read_text())
        except (OSError, ValueError):
            return {}


def file_md5(path: str | os.PathLike) -> str:
    """The md5 of a file, in hexadecimal."""
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def unpack_zip(
    archive: str | os.PathLike,
    target: str | os.PathLike,
    *,
    max_bytes: int,
    max_files: int = 10_000,
    place: Callable[[PurePosixPath], PurePosixPath | str | None] = lambda name: name,
    progress: bool = True,
) -> int:
    """Unpack a zip file into a folder, and say how many files were written.

    The whole list of contents is checked before the first byte is written.

    Args:
        archive: the zip file.
        target: an existing folder.
        max_bytes, max_files: of the contents that are wanted; more is taken for a zip bomb.
        place: from a name in the archive to the path below ``target``, None for what is not wanted.

    Raises:
        DataError: no zip file, a damaged one, a name that leads out of the folder, a link, an encrypted file, or more than
            ``max_bytes`` or ``max_files``.
    """
    archive, target = Path(archive), Path(target)
    try:
        with zipfile.ZipFile(archive) as contents:
            wanted = []
            for info in contents.infolist():
                name = _safe_name(info, archive)
                to = None if info.is_dir() else place(name)
                if to is not None:
                    wanted.append((info, target / to))
            declared = sum(info.file_size for info, _ in wanted)
            if declared > max_bytes or len(wanted) > max_files:
                raise DataError(
                    f"{archive}: unpacks to {len(wanted)} files of {_mega(declared)}, at most {max_files} of {_mega(max_bytes)} "
                    "were expected; it is not the data set's archive (nothing was unpacked)"
                )
            if (free := shutil.disk_usage(target).free) < declared:
                raise DataError(f"{target}: {_mega(declared)} to unpack, {_mega(free)} free on this disk; make room")
            for info, to in tqdm(wanted, desc=f"unpacking {archive.name}", unit="file", disable=not progress):
                to.parent.mkdir(parents=True, exist_ok=True)
                # Reading stops at the declared length, so that a lie about it ends in an error, not in a full disk.
                with contents.open(info) as source, to.open("wb") as sink:
                    shutil.copyfileobj(source, sink, _CHUNK)
            return len(wanted)
    except FileNotFoundError as error:
        raise DataError(f"{error.filename or archive}: not there") from error
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{archive}: no whole zip file ({error}); delete it and get it again") from error
    except OSError as error:
        raise _disk_error(target, error) from error


def _safe_name(info: zipfile.ZipInfo, archive: Path) -> PurePosixPath:
    text = info.orig_filename.replace("\\", "/")
    name = PurePosixPath(text)
    if name.is_absolute() or ".." in name.parts or ":" in text.split("/")[0] or "\0" in text:
        raise DataError(f"{archive}: holds {info.orig_filename!r}, which leads out of the folder (nothing was unpacked)")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise DataError(f"{archive}: holds the link {info.orig_filename!r}; expected files only (nothing was unpacked)")
    if info.flag_bits & 1:
        raise DataError(f"{archive}: {info.orig_filename!r} is encrypted (nothing was unpacked)")
    return name


@contextlib.contextmanager
def beside(target: str | os.PathLike) -> Iterator[Path]:
    """A folder to fill that takes the place of ``target`` when the block ends well, and is gone when it does not.

    Raises:
        DataError: another program is at the same target; the disk is full.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "set"
    >>> with beside(target) as part:
    ...     _ = (part / "a.txt").write_text("whole")
    >>> [path.name for path in target.iterdir()]
    ['a.txt']
    """
    target = Path(target)
    part = target.with_name(f".{target.name}.part")
    old = target.with_name(f".{target.name}.old")
    made = [parent for parent in target.parents if not parent.exists()]  # the innermost first
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _disk_error(part, error) from error
    try:
        with _locked(target, timeout=0):
            yield from _beside(target, part, old)
    finally:
        with contextlib.suppress(OSError):  # a parent that holds something stays
            for parent in made:
                parent.rmdir()


def _beside(target: Path, part: Path, old: Path) -> Iterator[Path]:
    """:func:`beside`, when nobody else is at it."""

    def put_back() -> None:  # what was there before, if nothing has taken its place
        if old.exists() and not target.exists():
            os.replace(old, target)

    try:
        put_back()
        for left_over in (part, old):
            if left_over.exists():  # of a run that was killed
                shutil.rmtree(left_over)
        part.mkdir(parents=True)
    except OSError as error:
        raise _disk_error(part, error) from error
    try:
        yield part
        if target.exists():
            os.replace(target, old)
        os.replace(part, target)
    except OSError as error:
        raise _disk_error(target, error) from error
    finally:
        put_back()
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _disk_error(path: Path, error: OSError) -> DataError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataError(f"{path}: the disk is full; make room and run the same command again (nothing half-written is left)")
    return DataError(f"{error.filename or path}: {error.strerror or error}")


def _size(path: Path) -> str:
    return _mega(path.stat().st_size) if path.exists() else "0 MB"


def _mega(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
