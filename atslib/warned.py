"""Warnings of the line that called into this package."""

from __future__ import annotations

import sys
import warnings


def warn(message: str) -> None:
    """Warn, of the line that called into this package, and not of one in it or in PyTorch."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("atslib", "torch"):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level + 1)
