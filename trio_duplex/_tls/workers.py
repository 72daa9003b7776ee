"""Handshake steps that would hold up the event loop: in threads, few at a time.

OpenSSL gives the interpreter's lock away while it computes. One connection's steps follow each
other, so never more than one thread uses its TLS object. A step that has begun is not
interrupted: it takes milliseconds, and a cancellation or deadline counts once it is over.
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
    """Lets one long flight be processed at once: strangers get one CPU for theirs, together."""
    return _limiter(_FLIGHTS, lambda: 1)


def for_signatures() -> trio.CapacityLimiter:
    """Lets as many signatures of ours be made at once as this process may use CPUs."""
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
