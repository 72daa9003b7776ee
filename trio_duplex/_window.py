"""How long to wait for the peer's first bytes: pure, with the clock passed in.

Today a window is a plain number of seconds. Rules by network and the memory of
peers have their place here.
"""

from __future__ import annotations

import math

DEFAULT_WINDOW = 5.0
"""Seconds. Most TLS clients speak within 5 ms, but a cold JVM takes 350 ms and a
cold Erlang on a busy machine 1.1 s, and one lost SYN-ACK or first segment costs
3 s more. Silent peers do not mind: twelve stacks tried all waited longer."""


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
