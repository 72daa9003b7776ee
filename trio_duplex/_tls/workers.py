"""Running slow handshake steps in threads, a few at a time, so that they do not block the event loop.

OpenSSL releases the interpreter's lock while it computes. The steps of one connection run one after
the other, so only one thread at a time uses its TLS object. A step that has begun is not
interrupted: it takes milliseconds, and a cancellation or deadline takes effect after it.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import trio

_FLIGHTS: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("trio_duplex flights")
_SIGNATURES: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar(
    "trio_duplex signatures"
)


def for_flights() -> trio.CapacityLimiter:
    """Allows one long flight at a time, so that all strangers together use at most one CPU for theirs."""
    return _limiter(_FLIGHTS, lambda: 1)


def for_signatures() -> trio.CapacityLimiter:
    """Allows as many signatures at the same time as this process may use CPUs."""
    return _limiter(_SIGNATURES, usable_cpus)


def usable_cpus() -> int:
    """How many CPUs this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


def _limiter(
    variable: trio.lowlevel.RunVar[trio.CapacityLimiter], tokens: Callable[[], int]
) -> trio.CapacityLimiter:
    try:
        return variable.get()
    except LookupError:
        variable.set(limiter := trio.CapacityLimiter(tokens()))
        return limiter
