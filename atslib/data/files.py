"""What the data sets made of image files share: where they are, reading them, saying what is wrong with them."""

from __future__ import annotations

import hashlib
import importlib
import itertools
import math
import os
import struct
import threading
import tokenize
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor
from torch.utils.data import get_worker_info

from atslib.checkpoints import whole
from atslib.loading import LabelledImages, as_numbers, from_array
from atslib.patches import ImageSource
from atslib.warned import warn

_ON_THE_SIDE = (5, 6, 7, 8)  # the orientations of EXIF whose rows are columns
# What Pillow raises for EXIF that it cannot read; the pixels may be whole all the same.
_DAMAGED_EXIF = (KeyError, SyntaxError, TypeError, ValueError, ZeroDivisionError, struct.error)
_PARTS = {"train", "training", "test", "testing", "val", "valid", "validation"}  # of data sets, which are no classes
_lifting = threading.Lock()
if hasattr(os, "register_at_fork"):  # no worker is to begin while the limit is lifted, or with a lock that nobody opens
    os.register_at_fork(before=_lifting.acquire, after_in_parent=_lifting.release, after_in_child=_lifting.release)


class DataError(ValueError):
    """A data set that is missing, incomplete or damaged: one line with the file, what was expected and what to do."""


class DataMissing(DataError):
    """A data set of which there is nothing."""


def data_root(root: str | os.PathLike | None = None) -> Path:
    """The folder that holds all data sets: ``root``, else ``$ATSLIB_DATA``, else ``atslib`` among the user's data.

    >>> data_root("somewhere").name
    'somewhere'
    """
    if root is not None:
        return Path(root).expanduser()
    if os.environ.get("ATSLIB_DATA"):
        return Path(os.environ["ATSLIB_DATA"]).expanduser()
    return Path(needed("platformdirs").user_data_dir("atslib", appauthor=False))


def needed(module: str) -> ModuleType:
    """Import a module that only files, downloads and tables need.

    Raises:
        ImportError: it is absent; the message says how to get it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        package = f"'atslib[{_EXTRAS[name]}]'" if name in _EXTRAS else name
        raise ImportError(f"this needs {module}: pip install {package}") from error


_EXTRAS = {"PIL": "data", "platformdirs": "data", "pooch": "data", "scipy": "data", "pandas": "tables"}


_ROOT = "ATSLIB_DATA, root=… or, of python -m atslib.experiments, --data"


def find_set(root: str | os.PathLike | None, folder: str, marker: str, get: str) -> Path:
    """The folder of a data set: the one below the data root, or ``root`` itself where it already is the set's own.

    Args:
        root: as :func:`data_root` takes it.
        folder: of the set, below the data root.
        marker: a path inside it that tells the set from another folder.
        get: the command that gets the set, for the message.

    Raises:
        DataMissing: the set is not there.
    """
    try:
        base = data_root(root)
    except ImportError as error:  # nobody has named a root, and the user's data directory is not known
        raise DataMissing(f"{error}, or name the folder that holds {folder.split('/')[0]}/ with {_ROOT}") from error
    for candidate in (base / folder, base):
        if (candidate / marker).exists():
            return candidate
    missing = f"the folder exists, but not {Path(folder) / marker} in it" if base.is_dir() else "there is no such folder"
    raise DataMissing(
        f"{base}: {missing}; get the data with `{get}`, or name the folder that holds "
        f"{folder.split('/')[0]}/ with {_ROOT}"
    )


def read_image(path: str | os.PathLike, get: str | None = None) -> UInt8[Tensor, "3 H W"]:
    """The pixels of an image file of any kind and size, as RGB of 8 bits, turned as its EXIF orientation says.

    Of a file with several frames the first, and of a TIFF whose other pages are smaller. Grey becomes three equal channels,
    transparency is dropped. What has more bits, bands or channels is read by :class:`atslib.data.ImagePyramid`.

    Args:
        path: of the file.
        get: for a file of a data set, the command that gets the set; for the message.

    Raises:
        DataError: a file that is missing, truncated, no image, of more than 8 bits or signed ones, with a band beside grey, or
            red, green and blue, that is no transparency, or with further pages of the first one's size, like the channels of a
            microscope. (AVIF and HEIF come with 8 bits whatever they have: their decoders do not say.)
    """
    with _opened(path, get) as (picture, large):
        # Before it is decoded: then Pillow has forgotten.
        deep, signed, bands, pages = _is_deep(picture), _is_signed(picture), _other_bands(picture), _other_pages(picture)
        with _of_any_size() if large else nullcontext():  # TIFF counts its pixels again
            picture.load()
        with suppress(*_DAMAGED_EXIF):
            needed("PIL.ImageOps").exif_transpose(picture, in_place=True)
        pixels = np.asarray(picture.convert("RGB"))  # (H, W, 3)
    if deep:  # Pillow's conversion would cut off what is above 255, or keep the upper 8 bits
        raise DataError(f"{path}: pixels of more than 8 bits; convert the file to 8 bits, or {_READ_YOURSELF}")
    if signed:  # Pillow takes -1 for 255
        raise DataError(f"{path}: signed pixels; convert the file to unsigned ones, or {_READ_YOURSELF}")
    if lost := bands or pages:
        raise DataError(f"{path}: {lost} would be lost; {_READ_YOURSELF}")
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


_OTHERS = "open others with ImagePyramid.open (slides, OME-TIFF, Zarr), or give ImageFiles a read=…"
_READ_YOURSELF = (
    "give ImageFiles a read=… of your own that returns uint8, floating point in [0, 1], or an image in a file "
    "(ImagePyramid.open reads all of a TIFF)"
)


def _is_deep(picture) -> bool:
    """Whether the file, not yet decoded, has more than 8 bits for a channel, also where Pillow would give it as RGB."""
    if picture.mode.startswith(("I", "F")):
        return True
    if max(np.ravel(getattr(picture, "tag_v2", {}).get(258, 8))) > 8:  # BitsPerSample of a TIFF
        return True
    if picture.format == "JPEG2000" and _jpeg2000_bits(picture.fp) > 8:
        return True
    if picture.format == "PPM" and any(most > 255 for tile in picture.tile for most in np.ravel(tile[3])[1:].astype(int)):
        return True
    return any(";16" in str(tile[3]) for tile in picture.tile)  # the decoder's raw mode, "RGB;16B" of a PNG


def _jpeg2000_bits(file) -> int:
    """Bits of the deepest channel, from the SIZ segment, which opens the code stream (ISO/IEC 15444-1, A.5.1); 0 if not found."""
    place = file.tell()
    file.seek(0)
    head = file.read(1 << 20)
    file.seek(place)
    start = head.find(b"\xff\x4f\xff\x51")
    if not 0 <= start <= len(head) - 42:
        return 0
    (channels,) = struct.unpack_from(">H", head, start + 40)
    return max(((depth & 0x7F) + 1 for depth in head[start + 42 : start + 42 + 3 * channels : 3]), default=0)


def _is_signed(picture) -> bool:
    return 2 in np.ravel(getattr(picture, "tag_v2", {}).get(339, ()))  # SampleFormat of a TIFF


def _other_bands(picture) -> str:
    """Bands of a TIFF that are neither its grey or colours nor transparency."""
    extra = np.ravel(getattr(picture, "tag_v2", {}).get(338, ())).tolist()  # ExtraSamples: 1 and 2 are transparency
    others, colours = extra.count(0), "red, green and blue" if picture.mode.startswith("RGB") else "grey"
    return f"{others} band{'s' * (others > 1)} beside {colours}" if others and picture.mode.startswith(("RGB", "L")) else ""


def _other_pages(picture) -> str:
    """Pages of a TIFF as large as the first: channels or layers, say, and no smaller copies or masks of it."""
    if picture.format != "TIFF":
        return ""
    size, alike = picture.size, 0
    with suppress(EOFError, *_DAMAGED_EXIF, OSError):  # there are no more; damage after the first page is no matter of this one
        for page in itertools.count(1):
            picture.seek(page)
            alike += picture.size == size and not picture.tag_v2.get(254, 0) & 0b101  # NewSubfileType: reduced, mask
    picture.seek(0)
    return f"{alike} more page{'s' * (alike > 1)} of the first one's size" if alike else ""


def image_size(path: str | os.PathLike, get: str | None = None) -> tuple[int, int]:
    """Height and width of what :func:`read_image` reads, from the file's header; raises what it does."""
    turned = False
    with _opened(path, get) as (picture, _):
        width, height = picture.size
        with suppress(*_DAMAGED_EXIF):
            if (tags := getattr(picture, "tag_v2", None)) is not None:  # a TIFF; some Pillows have turned its size already
                width, height = tags[256], tags[257]
            if tags is not None or {"exif", "xmp", "XML:com.adobe.xmp"} & set(picture.info):  # Pillow finds it in any
                turned = picture.getexif().get(0x0112) in _ON_THE_SIDE
        return (width, height) if turned else (height, width)


@contextmanager
def _opened(path: str | os.PathLike, get: str | None) -> Iterator[tuple]:
    """The file's image, not yet decoded, and whether it is beyond Pillow's limit; what Pillow raises becomes a DataError."""
    again = f"get the data set again with `{get}`"
    expected = f"delete the file and {again}" if get else f"expected an image file of a kind that Pillow reads; {_OTHERS}"
    Image = needed("PIL.Image")
    try:
        # As an open file: given a name, Pillow maps some TIFFs into memory, and mixes up the sides of those that lie on one.
        with Path(path).open("rb") as file:
            with _of_any_size() as limit:
                picture = Image.open(file)
            with picture:
                yield picture, limit is not None and picture.width * picture.height > limit
    except FileNotFoundError as error:
        raise DataError(f"{path}: not there; {again if get else 'expected an image file'}") from error
    except Image.DecompressionBombError as error:  # the limit was kept, as by its header the file is within it
        raise DataError(f"{path}: no readable image, it has more pixels than its header says ({error}); {expected}") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DataError(f"{path}: no readable image ({getattr(error, 'strerror', None) or error}); {expected}") from error


@contextmanager
def _of_any_size() -> Iterator[int | None]:
    """Lift Pillow's limit of pixels: it protects servers from strangers' files, and these are the user's own. Gives the limit.

    It is one number for the whole process, so one thread lifts it at a time, and puts it back.
    """
    Image = needed("PIL.Image")
    with _lifting:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield limit
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def files_digest(paths: Iterable[Path]) -> str:
    """A short digest of files' names and contents, whatever their order and their folders."""
    digest = hashlib.sha256()
    # Sorted by what is digested: the same name may be in several folders.
    inside = ((path, part) for path in paths for part in (path.rglob("*") if path.is_dir() else [path]) if part.is_file())
    named = ((os.fsencode(part.relative_to(path.parent).as_posix()), part.read_bytes()) for path, part in inside)
    for name, content in sorted((name, hashlib.sha256(content).digest()) for name, content in named):
        digest.update(name + b"\0" + content)
    return digest.hexdigest()[:16]


# Also those that need a Pillow with more in it: a photograph is to be an error where it cannot be read, not left out in silence.
_IMAGE_SUFFIXES = tuple(
    ".avif .bmp .dib .gif .heic .heif .j2k .jfif .jp2 .jpe .jpeg .jpg .mpo .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp".split()
)


# Of files that may well be images to a `read` of one's own.
_SLIDES = frozenset(".bif .czi .dcm .h5 .mrxs .ndpi .npy .npz .qptiff .scn .svs .svslide .vms .vmu .vsi .zarr .zip".split())


def _images_in(folder: Path, suffixes: tuple[str, ...] | None) -> tuple[list[Path], set[str]]:
    """Images below a folder, in an order that is the same on every system, and how the names of other files there end.

    What is hidden is neither. A folder is an image, and not entered, only if its ending is one of those given.
    """
    images, others = [], set()
    for place, folders, names in os.walk(folder, onerror=_refuse):
        units = [name for name in folders if suffixes is not None and name.lower().endswith(suffixes)]
        folders[:] = [name for name in folders if not name.startswith(".") and name not in units]
        for path in (Path(place, name) for name in (*names, *units) if not name.startswith(".")):
            if path.name.lower().endswith(_IMAGE_SUFFIXES if suffixes is None else suffixes):
                images.append(path)
            else:
                others.add(path.suffix or "nothing")
    # A link to nothing is kept, to be named: a class would shrink in silence. Pipes and sockets are nobody's images.
    images = [path for path in images if path.is_file() or path.is_dir() or path.is_symlink()]
    return sorted(images, key=lambda file: file.relative_to(folder).as_posix()), others


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: {error.strerror}; expected a folder of images") from error


class ImageFiles(LabelledImages):
    """Images read from files when they are asked for, so that the workers of a ``DataLoader`` decode them.

    Args:
        files: one image file each.
        labels: of the images, positions in ``classes``; or with ``any_label`` numbers or arrays of one shape, ``(N, …)``.
        classes: their names; unless given, those of the subclass, and without any the labels as words.
        cache: a folder for decoded images, written on first use and mapped into memory from then on; all workers and
            later runs share it. It takes three bytes a pixel, or what ``read`` returns. None decodes every time. It does not know
            what ``read`` does: with another one, take another folder. A file in it that is cut short or damaged at its beginning
            is made anew.
        read: from a path to the image ``(C, H, W)``, a tensor or an array, uint8, or floating point as the networks shall see it;
            for images of more channels or bits, or of one size. For files too large to be read, an
            :class:`atslib.patches.ImageSource`, as ``ImagePyramid.open`` gives: it is an item as it is, and not cached, so that
            its view is made anew each time. ``functools.partial(ImagePyramid.open, cache=folder)`` keeps views in a folder; a set
            that keeps its images, the list ``[(ImagePyramid.open(file), label), …]`` say, has them in memory, without workers.
            A function with a name, not a lambda, where workers are started anew (macOS, Windows).
        any_label: labels for a loss of your own (:func:`atslib.training.train`): several yes or no an image, a number. They are
            kept as int64 if they are integers, else as float32.

    Subclasses may have:
        get: the command that gets the data set, for the message when a file is missing or damaged.

    Items are ``(image, label)``: what ``read`` returns, else uint8 of shape ``(3, H, W)``, and an int, or with ``any_label`` a
    tensor.

    Raises:
        ValueError: not one label a file; labels that are no whole numbers or no positions in ``classes``. When an image is asked
            for: ``read`` returns something else; bfloat16 with a cache, whose files NumPy writes.
        DataError: files that are not there; when an image is asked for, what :func:`read_image` raises.
    """

    get: str | None = None

    def __init__(
        self,
        files: Sequence[str | os.PathLike],
        labels: Sequence[int],
        *,
        classes: Sequence[str] | None = None,
        cache: str | os.PathLike | None = None,
        read: Callable[[Path], Shaped[Tensor, "C H W"] | Shaped[np.ndarray, "C H W"] | ImageSource] | None = None,
        any_label: bool = False,
    ):
        self.files, self.any_label = [Path(file) for file in files], any_label
        labels = np.asarray(labels)
        if labels.shape[:1] != (len(self.files),) or (labels.ndim > 1 and not any_label):
            hint = " (several numbers an image: any_label=True)" if labels.ndim > 1 else ""
            raise ValueError(f"labels of shape {labels.shape} for {len(self.files)} files: expected one label a file{hint}")
        if len(labels) and labels.dtype.kind not in ("iubf" if any_label else "iub"):
            hint = "; for a loss of your own, any_label=True" if labels.dtype.kind == "f" else ""
            expected = "numbers" if any_label else "whole numbers, positions in classes"
            raise ValueError(f"labels of type {labels.dtype}: expected {expected}{hint}")
        together = from_array(labels.copy())
        self.labels = as_numbers(together) if any_label else together.long()
        most = int(self.labels.max()) if len(labels) and not any_label else -1
        if classes is not None:
            self.classes = tuple(classes)
        elif not hasattr(self, "classes"):
            self.classes = tuple(str(label) for label in range(most + 1))
        if len(labels) and not any_label and not 0 <= self.labels.min() <= most < len(self.classes):
            raise ValueError(
                f"labels from {int(self.labels.min())} to {most} for {len(self.classes)} classes: expected positions in classes"
            )
        self.cache = None if cache is None else Path(cache).expanduser()
        self.read = read
        if missing := [file for file in self.files if not file.exists()]:
            expected = f"get the data set again with `{self.get}`" if self.get else "expected an image file"
            others = f" ({len(missing)} of {len(self.files)} files are missing)" if len(missing) > 1 else ""
            raise DataError(f"{missing[0]}: not there; {expected}{others}")

    @classmethod
    def from_folder(
        cls,
        folder: str | os.PathLike,
        *,
        classes: Sequence[str] | None = None,
        suffixes: Sequence[str] | None = None,
        cache: str | os.PathLike | None = None,
        read: Callable[[Path], Shaped[Tensor, "C H W"] | Shaped[np.ndarray, "C H W"] | ImageSource] | None = None,
    ) -> ImageFiles:
        """The images in ``folder/class/…``, at any depth below their class (linked folders there are not entered).

        What begins with a dot is passed over, and so are files whose name does not end like an image's (.png, .jpg, .tif, …)
        and folders without any; of a folder that has other files only, a warning tells.

        Args:
            folder: holds a folder for each class.
            classes: the classes in the order of the labels; all folders with images, by name, unless given. Give a test set
                those of the training set, or a class that it lacks would shift its labels.
            suffixes: how the names of the images end, in capitals or not, in place of the kinds that Pillow reads: for a ``read``
                of your own, ``[".svs", ".ndpi"]`` or ``[".npy"]``, say; ``[".zarr"]`` takes folders of that name.
            cache, read: as above.

        Raises:
            DataError: no such folder, one that cannot be read, or no image in it; images in a folder that is none of
                ``classes``; a link to a file that is not there.
            ValueError: a class that is named twice; classes or suffixes that are one word.
        """
        root = Path(folder).expanduser()
        if not root.is_dir():
            raise DataError(f"{root}: no such folder; expected one with a folder of images for each class")
        for name, words in (("classes", classes), ("suffixes", suffixes)):
            if isinstance(words, str):
                raise ValueError(f"{name}={words!r}: expected several, [{words!r}] for one")
        endings = None if suffixes is None else tuple(suffix.lower() for suffix in suffixes)
        folders = [part for part in root.iterdir() if part.is_dir() and not part.name.startswith(".")]
        images, others = {}, {}
        for part in folders:
            images[part.name], others[part.name] = _images_in(part, endings)
        found = sorted(name for name, files in images.items() if files)
        passed_over = {name: ends for name, ends in sorted(others.items()) if ends and not images[name]}
        if not found:
            seen = sorted(set().union(*passed_over.values()))
            hint = f" (files there end in {', '.join(seen)}; for other kinds say read=… and suffixes=[…])" if seen else ""
            raise DataError(f"{root}: no image in its folders{hint}; expected one folder for each class, with images in it")
        beside = sorted({ending.lower() for ends in others.values() for ending in ends} & _SLIDES)
        if beside and read is not None and suffixes is None:
            warn(f"{root}: files that end in {', '.join(beside)} are passed over; suffixes=[…] names the endings of images")
        for name, ends in passed_over.items():
            if ends == {".npy"} and read is None:  # a cache
                continue
            warn(f"{root / name}: no image, but files that end in {', '.join(sorted(ends))}; such: read=… and suffixes=[…]")
        names = found if classes is None else list(classes)
        if len(set(names)) < len(names):
            raise ValueError(f"classes={names!r}: expected each of them once")
        if unknown := set(found) - set(names):
            raise DataError(f"{root / min(unknown)}: images of no class; expected folders {', '.join(names)}")
        files = [(file, label) for label, name in enumerate(names) for file in images.get(name, [])]
        if len(names) > 1 and all(name.lower() in _PARTS for name in names):
            warn(
                f"classes {', '.join(names)}, which look like parts of a data set: expected a folder for each class; "
                f"from_folder({str(root / names[0])!r}) reads one of the parts"
            )
        return cls(*zip(*files, strict=True), classes=names, cache=cache, read=read)

    def __getitem__(self, number: int) -> tuple[Shaped[Tensor, "C H W"] | ImageSource, int | Tensor]:
        path, label = self.files[number], self.labels[number]
        return (self._read(path) if self.cache is None else self._cached(path)), label if self.any_label else int(label)

    def digest(self) -> str:
        """A short digest of the image files' bytes, for records of runs."""
        return files_digest(self.files)

    def _read(self, path: Path) -> Shaped[Tensor, "C H W"] | ImageSource:
        return read_image(path, self.get) if self.read is None else _as_image(self.read(path), path)

    def _cached(self, path: Path) -> Shaped[Tensor, "C H W"] | ImageSource:
        place = place_in(self.cache, path)
        if (image := mapped(place)) is not None:
            return image
        image = self._read(path)
        if isinstance(image, ImageSource):
            return image
        try:
            pixels = np.ascontiguousarray(image.numpy(force=True))
        except TypeError as error:
            kind = str(image.dtype).removeprefix("torch.")
            raise ValueError(
                f"{path}: read gave {kind}, which NumPy's files cannot hold: expected uint8, float16 or float32, or cache=None"
            ) from error
        return image if (there := keep(place, pixels)) is None else there


def place_in(cache: Path, path: Path, *kind: object) -> Path:
    """Where a cache has what is made of a file as it is now, of one kind or another."""
    said = " ".join(map(str, (path.absolute(), _state(path), *kind)))
    key = hashlib.sha256(os.fsencode(said)).hexdigest()[:16]
    return cache / f"{os.fsencode(path.stem)[:100].decode(errors='ignore')}-{key}.npy"  # a name has at most 255 bytes


_unwritable: set[Path] = set()  # caches of which that has been said


def keep(place: Path, array: np.ndarray) -> Tensor | None:
    """Write an array where :func:`mapped` finds it, and give it from there; None, with a warning, where it cannot be written.

    A cache saves time only: in a folder that others have filled, or on a disk that is full, all goes on without.
    """
    try:
        with whole(place) as file:  # several workers may write the same image at once
            np.save(file, array)
    except OSError as error:
        if place.parent not in _unwritable:
            _unwritable.add(place.parent)
            warn(f"{place.parent}: {error.strerror or error}: what is not in this cache is made anew each time")
        return None
    return mapped(place)


def _state(path: Path) -> tuple[int, ...] | None:
    """Of a file, or of all files in a folder, what changes when they do; None where there is nothing."""
    if not path.exists():
        return None
    if not path.is_dir():
        return path.stat().st_size, path.stat().st_mtime_ns
    inside = [file.stat() for file in path.rglob("*") if file.is_file()]  # a folder's own time does not change with its files'
    return len(inside), sum(file.st_size for file in inside), max((file.st_mtime_ns for file in inside), default=0)


def _as_image(given: object, path: Path) -> Shaped[Tensor, "C H W"] | ImageSource:
    """What a ``read`` of the user's has returned for a file, as it goes into a model.

    Raises:
        ValueError: it is neither an image ``(C, H, W)`` of uint8 or floating point nor one that is read where it is looked at.
    """
    if isinstance(given, ImageSource):
        return given
    try:
        image = from_array(given) if isinstance(given, np.ndarray) else torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = f"pixels of type {given.dtype}" if isinstance(given, np.ndarray) else f"an object of type {type(given).__name__}"
        raise ValueError(f"{path}: read gave {kind}: {_EXPECTED_IMAGE}") from error
    if image.ndim != 3 or not (image.dtype == torch.uint8 or image.is_floating_point()):
        said = f"shape {tuple(image.shape)} and type {str(image.dtype).removeprefix('torch.')}"
        raise ValueError(f"{path}: read gave {said}: {_EXPECTED_IMAGE}")
    return image


_EXPECTED_IMAGE = (
    "expected a tensor or an array (C, H, W) of uint8, or of floating point (16 bits divided by 65535, say), or an ImagePyramid"
)


def mapped(path: Path) -> Tensor | None:
    """An array in a file, read where it is touched; changes stay with this process. None if there is none, or not all of it.

    NumPy's own map would hold the file open for as long as the array lives, and a system lets a process have some hundred.
    """
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, by_columns, dtype = read(file)
            start, size = file.tell(), os.fstat(file.fileno()).st_size
        kind = torch.from_numpy(np.empty(0, dtype)).dtype
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, SyntaxError, tokenize.TokenError):  # what is no header, or of no type of PyTorch's
        return None
    if size != start + math.prod(shape) * dtype.itemsize:
        return None
    if by_columns:  # of an older version of this library
        return torch.from_numpy(np.load(path))
    content = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)[start:]
    image = content.view(kind).view(shape)
    return image if get_worker_info() is None else image.clone()  # a map cannot be sent to another process
