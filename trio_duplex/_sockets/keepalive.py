"""Find a TCP peer that is gone without a trace: keepalive, and a bound on unacknowledged data.

Keepalive asks a silent peer whether it still lives. It does not run while data of ours
is unacknowledged: then the kernel sends that again, for 15 minutes by default, before it
gives the peer up. TCP_USER_TIMEOUT bounds that (RFC 5482). Linux counts it, too, while a
living peer takes nothing at all because its receive buffer is full.
"""

from __future__ import annotations

import contextlib
import math
import socket

import trio

DEFAULT_KEEPALIVE = 60.0
"""Seconds: below the time after which NAT forgets a connection."""

INTERVAL = 15
COUNT = 4
"""Four questions in a minute, after so many seconds of silence."""

PATIENCE = INTERVAL * COUNT
"""Seconds that the questions take. Unacknowledged data is given as many more than
silence, so that a peer that is gone is found after the same time, whether or not we
were sending to it."""

MOST = 32_767
"""Seconds until the first question; Linux refuses more."""

MOST_MILLISECONDS = 2**31 - 1
"""Of TCP_USER_TIMEOUT, which is an ``unsigned int`` that Linux takes as an ``int``."""

TCP_USER_TIMEOUT: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)
"""Linux; elsewhere the kernel's own patience is all there is."""

FAMILIES = {socket.AF_INET, socket.AF_INET6}


def default_ack_timeout(keepalive: float) -> float:
    """Seconds for data to be acknowledged, where nobody says: until keepalive would give up."""
    return keepalive + PATIENCE


def keep_alive(sock: trio.socket.SocketType, idle: float, ack_timeout: float | None = None) -> None:
    """Set both bounds for a TCP socket, or for all that a listening one accepts (Linux, BSD).

    Args:
        sock: Any socket; what is not TCP is left alone.
        idle: Seconds of silence until the first question; ``math.inf`` changes nothing.
        ack_timeout: Seconds for sent data to be acknowledged; None for `default_ack_timeout`,
            ``math.inf`` changes nothing.
    """
    if sock.family not in FAMILIES:
        return
    if ack_timeout is None:
        ack_timeout = default_ack_timeout(idle)
    with contextlib.suppress(OSError):  # of one that was closed meanwhile
        if idle != math.inf:
            options = {
                "TCP_KEEPIDLE": min(max(1, round(idle)), MOST),
                "TCP_KEEPINTVL": INTERVAL,
                "TCP_KEEPCNT": COUNT,
            }
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in options.items():
                if hasattr(socket, name):
                    sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        if ack_timeout != math.inf and TCP_USER_TIMEOUT is not None:
            milliseconds = min(max(1, round(ack_timeout * 1000)), MOST_MILLISECONDS)
            sock.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, milliseconds)


def keep_alive_by_default(stream: trio.abc.Stream) -> None:
    """Set both, if it is a TCP connection for which its owner has not turned keepalive on."""
    if not isinstance(stream, trio.SocketStream) or stream.socket.family not in FAMILIES:
        return
    with contextlib.suppress(OSError):
        if not stream.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE):
            owners = TCP_USER_TIMEOUT and stream.getsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT)
            keep_alive(stream.socket, DEFAULT_KEEPALIVE, math.inf if owners else None)
