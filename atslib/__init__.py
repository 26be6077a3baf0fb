"""Attention sampling for images too large for a network: look at a small view, then only where it matters.

The parts, from the ground up: :mod:`atslib.estimators` (which locations to draw and how to weigh them),
:mod:`atslib.patches` (the view and the patches), :mod:`atslib.networks`, :mod:`atslib.models`, :mod:`atslib.nested` (for images
of a gigapixel), :mod:`atslib.data`, :mod:`atslib.training`, :mod:`atslib.prediction`, :mod:`atslib.profiling` (what a method
costs). :mod:`atslib.plots` and :mod:`atslib.widgets` are for notebooks and imported there.
"""

import importlib

from atslib.estimators import ESTIMATORS, entropy, get_estimator
from atslib.models import AttentionSampling, DeepMIL, DownsampledCNN, UniformSampling
from atslib.nested import NestedSampling
from atslib.patches import PatchGeometry, downsample, extract_patches

__version__ = "0.1.0"
_ON_DEMAND = frozenset(
    "arguments checkpoints checks data dependence enumeration evaluation experiments export fingerprints loading losses memory "
    "plots precision prediction processes profiling signals training warned widgets".split()
)
__all__ = [
    "ESTIMATORS",
    "AttentionSampling",
    "DeepMIL",
    "DownsampledCNN",
    "NestedSampling",
    "PatchGeometry",
    "UniformSampling",
    "downsample",
    "entropy",
    "extract_patches",
    "get_estimator",
]


def __getattr__(name: str):
    """The other modules, imported when they are asked for: ``atslib.data.ImagePyramid`` after ``import atslib`` alone."""
    if name in _ON_DEMAND:
        return importlib.import_module(f"atslib.{name}")
    raise AttributeError(f"module 'atslib' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ON_DEMAND})
