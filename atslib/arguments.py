"""Whether an argument is the number that it has to be."""

from __future__ import annotations

import math


def is_whole(value: object) -> bool:
    """Whether it is a whole number, of whatever type.

    >>> is_whole(3), is_whole(3.0), is_whole(3.5), is_whole("3"), is_whole(None), is_whole(float("inf"))
    (True, True, False, False, False, False)
    """
    if isinstance(value, int):
        return True
    try:
        return bool(int(value) == value)
    except (TypeError, ValueError, OverflowError):
        return False


def finite(name: str, value: object) -> float:
    """The value as a finite number.

    Raises:
        ValueError: it is none.
    """
    try:
        if not isinstance(value, str) and math.isfinite(number := float(value)):
            return number
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"{name}={value!r}: expected a finite number")
