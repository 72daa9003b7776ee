"""Checking that an argument is a duration in seconds."""

from __future__ import annotations

import math


def check_seconds(name: str, value: object) -> float:
    """Return ``value`` as a float if it can be a duration.

    Args:
        name: The argument's name, for the error message.
        value: Seconds; 0 and ``math.inf`` are allowed.

    Raises:
        TypeError: ``value`` is not a number.
        ValueError: ``value`` is negative or NaN.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if math.isnan(value) or value < 0:
        raise ValueError(f"{name} must be 0 or more seconds (math.inf is allowed), not {value!r}")
    return float(value)
