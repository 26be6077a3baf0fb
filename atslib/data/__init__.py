"""Data sets: a large ``uint8`` image and its label at a time, read or drawn only when asked for."""

from atslib.data.digits import mnist_digits
from atslib.data.megapixel_mnist import MegapixelMNIST

__all__ = ["MegapixelMNIST", "mnist_digits"]
