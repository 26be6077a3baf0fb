"""Data sets: a large ``uint8`` image and its label at a time, read or drawn only when asked for.

Real ones (:class:`ColonCancer`, :class:`SwedishTrafficSigns`, :class:`GTSDB`) are looked for below :func:`data_root`;
``python -m atslib.data`` says which are there and how to get the others. :class:`MegapixelMNIST` is drawn from digits that ship
with the package, and :class:`GeneratedHistology` and :class:`GeneratedRoads` stand in for the real ones where they are absent.
Your own images: :meth:`ImageFiles.from_folder`, and :class:`Padded` where their sizes differ; files too large to be read:
:meth:`ImagePyramid.open`.
"""

from atslib.data.augmentation import Augmentation
from atslib.data.colon_cancer import ColonCancer
from atslib.data.digits import mnist_digits
from atslib.data.files import DataError, DataMissing, ImageFiles, data_root, image_size, read_image
from atslib.data.histology import GeneratedHistology
from atslib.data.megapixel_mnist import MegapixelMNIST
from atslib.data.mnist import full_mnist
from atslib.data.padding import Padded, largest_size
from atslib.data.pyramids import ImagePyramid
from atslib.data.roads import GeneratedRoads
from atslib.data.speed_limits import GTSDB, SignWindows, SpeedLimits, SwedishTrafficSigns
from atslib.loading import LabelledImages

__all__ = [
    "GTSDB",
    "Augmentation",
    "ColonCancer",
    "DataError",
    "DataMissing",
    "GeneratedHistology",
    "GeneratedRoads",
    "ImageFiles",
    "ImagePyramid",
    "LabelledImages",
    "MegapixelMNIST",
    "Padded",
    "SignWindows",
    "SpeedLimits",
    "SwedishTrafficSigns",
    "data_root",
    "full_mnist",
    "image_size",
    "largest_size",
    "mnist_digits",
    "read_image",
]
